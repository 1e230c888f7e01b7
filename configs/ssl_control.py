"""The control of self-training: as many steps in total, without its labels.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            both stages

    way=longer       one run of twice the steps: of configs/ssl.py, whose second stage starts anew
                     and without labels would repeat the first (S2)
    way=continued    another run from the first one's networks, S1's way to start the second

What self-training gains over `eval_control` is what its labels are worth.

    python main.py --config configs/ssl_control.py
    python main.py --config configs/ssl_control.py:way=continued
"""

from ml_collections import ConfigDict

from configs import adversarial, base


def longer(config: ConfigDict) -> dict:
    """A train stage of twice the steps, also where the command line changes them."""
    return {"kind": "train", "steps": 2 * config.get_oneway_ref("steps")}


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, way=("longer", "continued"))
    config = adversarial.get_config(benchmark)
    continued = {"kind": "train", "init": "adversarial"}
    config.stages = ("adversarial", "control", "eval_adversarial", "eval_control")
    config.stage = ConfigDict(
        {
            "adversarial": {"kind": "train"},
            "control": longer(config) if options["way"] == "longer" else continued,
            "eval_adversarial": {"kind": "evaluate", "models": ("adversarial",)},
            "eval_control": {"kind": "evaluate", "models": ("control",)},
        }
    )
    return config
