"""Adversarial + FDA with two bands, fused by the mean of their softmax (S1; multi-band transfer).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output           for each beta
inputs       = fda(source, target, beta), target                        beta in {0.01, 0.05}
prediction   = argmax 1/2 [softmax G_0.01 + softmax G_0.05]

    python main.py --config configs/fda_mbt.py

Expected on `streets`: 22.9 ± 1.3 mIoU, seeds 0 to 2; either band alone in fda.py (README).
"""

from ml_collections import ConfigDict

from configs import adversarial


def get_config(arg: str = ""):
    config = adversarial.get_config(arg)
    config.stages = ("beta_001", "beta_005", "eval_001", "eval_005", "eval_mbt")
    config.stage = ConfigDict(
        {
            "beta_001": {"kind": "train", "fda_beta": 0.01},
            "beta_005": {"kind": "train", "fda_beta": 0.05},
            "eval_001": {"kind": "evaluate", "models": ("beta_001",)},
            "eval_005": {"kind": "evaluate", "models": ("beta_005",)},
            "eval_mbt": {"kind": "evaluate", "models": ("beta_001", "beta_005")},
        }
    )
    return config
