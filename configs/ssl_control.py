"""The control of self-training: as many steps in total, without its labels.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            both stages

    way=longer       one run of twice the steps: the second stage of configs/ssl.py starts anew, and
                     without labels it would repeat the first (Bartoletti et al.)
    way=continued    a second run that starts from the networks of the first (Nikiforos et al.)

What self-training gains over `eval_control` is what its labels are worth. The papers are those of
configs/ssl.py and configs/fda_ssl.py; neither has such a control.

    python main.py --config configs/ssl_control.py
    python main.py --config configs/ssl_control.py:way=continued

Expected on `streets`: 24.3 ± 0.5 mIoU with way=longer, seeds 0 to 2 (docs/results.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adversarial, arguments


def longer(config: ConfigDict) -> dict:
    """Returns a train stage of twice the steps, also where the command line changes them."""
    return {"kind": "train", "steps": 2 * config.get_oneway_ref("steps")}


def make(benchmark: str, *, way: Literal["longer", "continued"] = "longer") -> ConfigDict:
    """Returns the control on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      way: how the steps of self-training are spent.
    """
    config = adversarial.make(benchmark)
    continued = {"kind": "train", "init": "adversarial"}
    config.stages = ("adversarial", "control", "eval_adversarial", "eval_control")
    config.stage = ConfigDict(
        {
            "adversarial": {"kind": "train"},
            "control": longer(config) if way == "longer" else continued,
            "eval_adversarial": {"kind": "evaluate", "models": ("adversarial",)},
            "eval_control": {"kind": "evaluate", "models": ("control",)},
        }
    )
    return config


get_config = arguments.parsed(make)
