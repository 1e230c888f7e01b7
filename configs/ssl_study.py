"""S2's table in one workdir: adversarial, self-training by one, two, three layers, and a control.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output              adversarial, control
               the same + pseudo + pseudo_aux16 + pseudo_aux32             ssl_1, ssl_2, ssl_3

The stages are those of configs/ssl.py, ssl_2layers.py, ssl_3layers.py and ssl_control.py; all
labels come from the one adversarial network.

    python main.py --config configs/ssl_study.py --seeds 3

Expected on `streets`: one layer 19.0 ± 0.8, two 20.4 ± 2.0, three 20.7 ± 2.0 mIoU; control, of as
many steps, 24.3 ± 0.5; seeds 0 to 2 (README).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import adversarial, ssl, ssl_control

LAYERS = {"1": ssl.ONE, "2": ssl.TWO, "3": ssl.THREE}


def get_config(arg: str = ""):
    config = adversarial.get_config(arg)
    stage: dict[str, dict[str, Any]] = {"adversarial": {"kind": "train"}}
    for number, heads in LAYERS.items():
        stage[f"label_{number}"] = ssl.label(heads)
        stage[f"ssl_{number}"] = ssl.learn(f"label_{number}")
    stage["control"] = ssl_control.longer(config)
    trained = [name for name, fields in stage.items() if fields["kind"] == "train"]
    stage |= {f"eval_{name}": {"kind": "evaluate", "models": (name,)} for name in trained}
    config.stages = tuple(stage)
    config.stage = ConfigDict(stage)
    return config
