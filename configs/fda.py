"""Adversarial adaptation on Fourier-stylised source images, one band (Yang & Soatto 2020; S1).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output
inputs       = fda(source, target, beta), target

The argument is [BENCHMARK,]beta=B,with=adversary, default 0.01. with=entropy is FDA's own
objective, seg + seg_aux16 + seg_aux32 + 0.005 robust_entropy, without discriminators; its PyTorch
code exchanges --config.fda_window=corners.

    python main.py --config configs/fda.py:beta=0.05

Expected on `streets`: 22.3 ± 0.8 mIoU at 0.01, 21.2 ± 1.0 at 0.05, seeds 0 to 2 (README).
"""

from configs import adversarial, base


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, beta=0.01, **{"with": ("adversary", "entropy")})
    config = adversarial.get_config(benchmark)
    if options["with"] == "entropy":
        config.objective.update({"adv_output": 0.0, "robust_entropy": 0.005})
    config.fda_beta = options["beta"]
    return config
