"""Self-training after adversarial adaptation (S2): adapt, label the target, train anew on both.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
labels       = the main output's classes; of every image and class the half it is surer of, and
               whatever is surer than 0.9 (per image, as S2's code does)

The second network starts where the first one did, not from it.

    python main.py --config configs/ssl.py
"""

from ml_collections import ConfigDict

from configs import adversarial

ONE, TWO, THREE = ("logits",), ("logits", "aux32"), ("logits", "aux16", "aux32")


def label(heads: tuple[str, ...]) -> dict:
    """S2's labels by one network: the surest of some of its outputs decides each pixel."""
    rule = {"heads": heads, "fusion": "most_confident", "scope": "image"}
    return {"kind": "pseudo_label", "models": ("adversarial",), "pseudo": rule}


def learn(labels: str) -> dict:
    """A train stage that also learns the target by the labels of an earlier stage."""
    terms = {"pseudo": 1.0, "pseudo_aux16": 1.0, "pseudo_aux32": 1.0}
    return {"kind": "train", "pseudo_labels": labels, "objective": terms}


def get_config(arg: str = "", *, heads: tuple[str, ...] = ONE):
    config = adversarial.get_config(arg)
    config.stages = ("adversarial", "label", "ssl", "eval_adversarial", "eval_ssl")
    config.stage = ConfigDict(
        {
            "adversarial": {"kind": "train"},
            "label": label(heads),
            "ssl": learn("label"),
            "eval_adversarial": {"kind": "evaluate", "models": ("adversarial",)},
            "eval_ssl": {"kind": "evaluate", "models": ("ssl",)},
        }
    )
    return config
