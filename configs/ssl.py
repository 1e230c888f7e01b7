"""Self-training after adversarial adaptation: adapt, label the target, train again on both.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
labels       = the class of the most confident layer at each pixel: in every image, the more
               confident half of the pixels of each class, and every pixel above 0.9

    layers=1         the main output
    layers=2         the main output and the 1/32 head
    layers=3         the main output, the 1/16 and the 1/32 head

The second network starts from the same initial weights as the first one, not from its result. The
paper's text calls the choice between layers majority voting, but its code takes the most confident
layer, as is done here. --config.stage.label.pseudo.fusion=majority lets three layers vote, and
=mean averages their softmax.

Paper (Bartoletti): Bartoletti, Bulfamante & Sciortino, Multiple layer self supervised learning for
real-time semantic segmentation, Politecnico di Torino.

    python main.py --config ssl
    python main.py --config ssl:layers=3

Expected on `streets`: 19.0 ± 0.8 mIoU by one layer, 20.4 ± 2.0 by two, 20.7 ± 2.0 by three, seeds
0 to 2 (docs/results.md, from configs/ssl_study.py).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adversarial, arguments, base

Layers = Literal[1, 2, 3]
OUTPUTS: dict[Layers, tuple[str, ...]] = {  # that label the target
    1: ("logits",),
    2: ("logits", "aux32"),
    3: ("logits", "aux16", "aux32"),
}


def label(layers: Layers) -> dict:
    """Returns a stage that labels the target by the most confident layer of one network."""
    rule = {"heads": OUTPUTS[layers], "fusion": "most_confident", "scope": "image"}
    return {"kind": "pseudo_label", "models": ("adversarial",), "pseudo": rule}


def learn(labels: str) -> dict:
    """Returns a train stage that also trains on the labels of an earlier stage."""
    terms = {f"pseudo{head}": 1.0 for head in base.HEADS}
    return {"kind": "train", "pseudo_labels": labels, "objective": terms}


def make(
    benchmark: str,
    *,
    layers: Layers = 1,
    level: adversarial.Level = "output",
    network: adversarial.Discriminator = "fcd",
) -> ConfigDict:
    """Returns self-training on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      layers: how many outputs of the adapted network label the target.
      level: which outputs the discriminators judge.
      network: the discriminators.
    """
    config = adversarial.make(benchmark, level=level, network=network)
    base.set_stages(
        config,
        {
            "adversarial": {"kind": "train"},
            "label": label(layers),
            "ssl": learn("label"),
            **base.evaluated("adversarial", "ssl"),
        },
    )
    return config


get_config = arguments.parsed(make)
