"""FDA, multi-band transfer and self-training (Yang & Soatto 2020; S1's last rows).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output            beta_001, beta_005
               the same + pseudo + pseudo_aux16 + pseudo_aux32           ssl
inputs       = fda(source, target, beta), target                         0.01, 0.05; ssl: 0.01
labels       = classes of the mean softmax of both networks; of each class over the whole set the
               third it is surest of, and whatever is surer than 0.9

The last stage starts from the networks of beta_001 (discriminator too) at half of the learning
rates. S1 does not halve the discriminator's loss: --config.adversary.d_factor=1.0.
With control=yes a further stage does the same without the labels.

    python main.py --config configs/fda_ssl.py
    python main.py --config configs/fda_ssl.py:control=yes
"""

from configs import base, fda_mbt, ssl


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, control=("no", "yes"))
    config = fda_mbt.get_config(benchmark)

    def again() -> dict:
        half = {name: 0.5 * config.optim.get_oneway_ref(name) for name in ("g_lr", "d_lr")}
        return {"kind": "train", "init": "beta_001", "fda_beta": 0.01, "optim": half}

    third = {"fusion": "mean", "scope": "dataset", "cut": 0.66, "index": "floor"}
    both = ("beta_001", "beta_005")
    config.stage.update(
        {
            "label": {"kind": "pseudo_label", "models": both, "pseudo": third},
            "ssl": {**again(), **ssl.learn("label")},
            "eval_ssl": {"kind": "evaluate", "models": ("ssl",)},
            "control": again(),
            "eval_control": {"kind": "evaluate", "models": ("control",)},
        }
    )
    added = ("label", "ssl", "eval_ssl")
    control = ("control", "eval_control") if options["control"] == "yes" else ()
    config.stages = (*config.stages, *added, *control)
    return config
