"""Self-training with labels of one, two and three layers, and its control, in one workdir.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output              adversarial, control
               the same + pseudo + pseudo_aux16 + pseudo_aux32             ssl_1, ssl_2, ssl_3

The stages are those of configs/ssl.py and configs/ssl_control.py; all labels come from the same
adversarial network.

Paper (Bartoletti): Bartoletti, Bulfamante & Sciortino, Multiple layer self supervised learning for
real-time semantic segmentation, Politecnico di Torino.

    python main.py --config ssl_study --seeds 3

Expected on `streets`: one layer 19.0 ± 0.8, two 20.4 ± 2.0, three 20.7 ± 2.0 mIoU; the control
with the same number of steps 24.3 ± 0.5; seeds 0 to 2 (docs/results.md).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import adversarial, arguments, base, ssl, ssl_control


def make(
    benchmark: str,
    *,
    level: adversarial.Level = "output",
    network: adversarial.Discriminator = "fcd",
) -> ConfigDict:
    """Returns the study on a benchmark; the options are those of `adversarial.make`."""
    config = adversarial.make(benchmark, level=level, network=network)
    stage: dict[str, dict[str, Any]] = {"adversarial": {"kind": "train"}}
    for layers in ssl.OUTPUTS:
        stage[f"label_{layers}"] = ssl.label(layers)
        stage[f"ssl_{layers}"] = ssl.learn(f"label_{layers}")
    stage["control"] = ssl_control.longer(config)
    trained = [name for name, fields in stage.items() if fields["kind"] == "train"]
    base.set_stages(config, {**stage, **base.evaluated(*trained)})
    return config


get_config = arguments.parsed(make)
