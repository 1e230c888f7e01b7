"""The control of self-training: the same number of steps in total, without pseudo-labels.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            both stages

    way=longer       one run of twice the steps, because the second stage of configs/ssl.py starts
                     from scratch and would repeat the first without labels (Bartoletti et al.)
    way=continued    a second run that starts from the networks of the first (Nikiforos et al.)

The gain of self-training over `eval_control` is due to its labels alone. The papers are those of
configs/ssl.py and configs/fda_ssl.py; neither has such a control.

    python main.py --config ssl_control
    python main.py --config ssl_control:way=continued

Expected on `streets`: 24.3 ± 0.5 mIoU with way=longer, seeds 0 to 2 (docs/results.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adversarial, arguments, base


def longer(config: ConfigDict) -> dict:
    """Returns a train stage of twice the steps; it follows a change of `steps` by a flag."""
    return {"kind": "train", "steps": 2 * config.get_oneway_ref("steps")}


def make(benchmark: str, *, way: Literal["longer", "continued"] = "longer") -> ConfigDict:
    """Returns the control on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      way: how the steps of self-training are spent.
    """
    config = adversarial.make(benchmark)
    continued = {"kind": "train", "init": "adversarial"}
    base.set_stages(
        config,
        {
            "adversarial": {"kind": "train"},
            "control": longer(config) if way == "longer" else continued,
            **base.evaluated("adversarial", "control"),
        },
    )
    return config


get_config = arguments.parsed(make)
