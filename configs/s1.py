"""The table of S1 on BiSeNet-STDC1: adversarial, FDA and multi-band transfer by its own recipe.

objective(G) = seg + seg_aux16 + seg_aux32 [+ 0.001 adv_output]
objective(D) = BCE(D(softmax source), 0) + BCE(D(softmax target), 1)     halved with preset=paper

    row=source, augmented, adversarial, fda, mbt         beta=0.01 (of row=fda)

SGD 0.01, decay 1e-4, Adam 1e-4, poly once an epoch of the 2,000 source images, 50 epochs, ImageNet
weights by --config.model.pretrained. S1's code mirrors the image but not the label in half of
row=augmented; here both move.

    python main.py --config configs/s1.py:gta5_to_cityscapes,row=fda,beta=0.05
"""

from configs import base, fda, fda_mbt, source_only
from configs.adversarial import get_config as adversarial

IMAGES, EPOCHS = 2000, 50


def get_config(arg: str = ""):
    benchmark, options = base.parse(
        arg,
        row=("adversarial", "source", "augmented", "fda", "mbt"),
        beta=0.01,
        preset=("code", "paper"),
    )
    rows = {
        "source": lambda: source_only.get_config(benchmark),
        "augmented": lambda: source_only.get_config(f"{benchmark},colour=0.5"),
        "adversarial": lambda: adversarial(benchmark),
        "fda": lambda: fda.get_config(f"{benchmark},beta={options['beta']}"),
        "mbt": lambda: fda_mbt.get_config(benchmark),
    }
    config = rows[options["row"]]()
    config.model.name = "bisenet_stdc1"
    config.model.statistics = "both"
    config.batch_size = 8 if options["row"] in ("source", "augmented") else 2
    epoch = IMAGES // config.batch_size
    config.steps = epoch * EPOCHS
    config.optim.update({"g_lr": 1e-2, "d_lr": 1e-4, "schedule_every_steps": epoch})
    config.adversary.d_factor = {"code": 1.0, "paper": 0.5}[options["preset"]]
    return config
