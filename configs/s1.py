"""The table of S1 on BiSeNet-STDC1: adversarial, FDA and multi-band transfer by its own recipe.

objective(G) = seg + seg_aux16 + seg_aux32 [+ 0.001 adv_output]
objective(D) = BCE(D(softmax source), 0) + BCE(D(softmax target), 1)

    row=source, augmented, adversarial, fda, mbt         beta=0.01 (of row=fda)
    preset=code      augmented and adversarial change colours and mirror half of the source images,
                     the others nothing; FDA exchanges a square
    preset=paper     adversarial as it comes; FDA exchanges beta H by beta W, as in its formula;
                     objective(D) is halved, as in AdaptSegNet, which the text builds on

SGD 0.01, decay 1e-4, Adam 1e-4, poly once an epoch, 50 epochs of 2,000 images, ImageNet weights by
--config.model.pretrained. S1 draws from 2,000 images of GTA5 (benchmark.source.list=FILE takes a
subset), crops 512x1024 of native images where here they are resized (720x1280 where the domains
are not stylised), takes the checkpoints of epoch 25 for mbt, and mirrors the image but not its
label; here both move. Oracle and self-training: target_only.py, fda_ssl.py.

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
    code, augmented = options["preset"] == "code", options["row"] == "augmented"
    if options["row"] == "adversarial" and code:
        config.augment.colour, augmented = 0.5, True
    config.augment.flip = augmented
    config.fda_window = "square" if code else "rectangle"
    config.model.name = "bisenet_stdc1"
    config.model.statistics = "both"
    config.batch_size = 8 if options["row"] in ("source", "augmented") else 2
    epoch = IMAGES // config.batch_size
    config.steps = epoch * EPOCHS
    config.optim.update({"g_lr": 1e-2, "d_lr": 1e-4, "schedule_every_steps": epoch})
    config.adversary.d_factor = 1.0 if code else 0.5
    return config
