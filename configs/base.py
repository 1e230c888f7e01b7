"""Every field of an experiment, with its default. The other files change a few of them."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import benchmarks
from rtda_jax.errors import ConfigError


def parse(arg: str, **options: float) -> tuple[str, dict[str, float]]:
    """Split `BENCHMARK,option=number` into the benchmark's name and the options."""
    benchmark = ""
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            benchmark = part
        elif name not in options:
            raise ConfigError(f"unknown option {name!r} in {arg!r}; known: {', '.join(options)}")
        else:
            try:
                options[name] = float(value)
            except ValueError:
                raise ConfigError(f"{name} in {arg!r} must be a number, got {value!r}") from None
    return benchmark, options


def get_config(arg: str = "") -> ConfigDict:
    """The defaults on one benchmark; `arg` is what follows the colon of --config."""
    benchmark = benchmarks.get(arg or "streets")
    config = ConfigDict()

    config.benchmark = benchmark  # source -> target pair: data, classes, sizes (benchmarks.py)
    config.data_dir = ""  # where data sets lie; empty: --data_dir, $RTDA_JAX_DATA, ~/.cache
    config.seed = 0  # of initialisation, data order and everything else random
    config.steps = benchmark.steps  # training iterations of each train stage
    config.batch_size = benchmark.batch_size  # images per domain over all devices
    config.labelled = "source"  # the domain whose labels supervise; "target" is the oracle

    config.model = ConfigDict()
    config.model.name = "bisenet_resnet18"  # a key of rtda_jax.models.MODELS
    config.model.options = ConfigDict()  # further fields of that network
    config.model.batch_norm = "batch"  # or "frozen": running statistics also while training
    config.model.statistics = "both"  # whose images update them: both, source, target
    config.model.pretrained = ""  # weight file (.pth, .safetensors, .npz); empty: from scratch
    config.model.pretrained_part = "backbone"  # or "all": the whole network
    config.model.pretrained_naming = ""  # where a file's naming is not unique; empty: recognised
    config.normalisation = "imagenet"  # a key of rtda_jax.normalise.NORMALISATIONS
    config.dtype = "float32"  # of the computation; parameters are always float32

    # The objective: weighted named terms (rtda_jax/terms.py); a weight of 0 is not traced.
    config.objective = ConfigDict()
    config.objective.seg = 1.0  # main head on the labelled domain
    config.objective.seg_aux16 = 1.0  # auxiliary heads
    config.objective.seg_aux32 = 1.0
    config.objective.adv_output = 0.0  # deceive the discriminator of the main softmax
    config.pixel_loss = "cross_entropy"  # or "focal"
    config.fda_beta = placeholder(float)  # stylise the source after the target; None does not

    config.adversary = ConfigDict()
    config.adversary.network = "fcd"  # or "fcd_light"
    config.adversary.gan_loss = "bce"  # or "least_squares"
    config.adversary.d_factor = 0.5  # discriminator loss: half the sum of both domains (S1: 1)

    config.optim = ConfigDict()
    config.optim.g_lr = benchmark.g_lr  # SGD, momentum, coupled weight decay, poly per iteration
    config.optim.g_momentum = 0.9
    config.optim.g_decay = 1e-4
    config.optim.d_lr = 1e-4  # Adam
    config.optim.d_betas = (0.9, 0.99)
    config.optim.power = 0.9  # of the poly schedule of both
    config.optim.schedule_steps = 0  # where poly reaches zero; 0: at `steps`

    config.augment = ConfigDict()
    config.augment.flip = True  # mirror image and label together, half of the time
    config.augment.scale = (1.0, 1.0)  # range of random zoom before the crop

    config.eval = ConfigDict()
    config.eval.mode = "whole"  # or "slide": overlapping windows of size `window`
    config.eval.window = benchmark.crop  # sliding window (H, W)
    config.eval.stride = tuple((5 * side + 5) // 6 for side in benchmark.crop)
    config.eval.pictures = 4  # rows of the picture grid

    config.log_every_steps = 20
    config.checkpoint_every_steps = 100
    config.checkpoint_keep = 2  # newest checkpoints held, 2 or more: one may get damaged
    config.on_not_finite = "stop"  # a loss or gradient is no number: stop, or skip that update
    config.stall_seconds = 1800.0  # no step in that time: stacks, exit code 6; 0: wait for ever
    config.threads = 2  # of the input pipeline; the data do not depend on it

    # The experiment: named stages in order; each overrides fields above for itself.
    config.stages = ("train", "evaluate")
    config.stage = ConfigDict()
    config.stage.train = ConfigDict({"kind": "train"})
    config.stage.evaluate = ConfigDict({"kind": "evaluate", "models": ("train",)})
    return config
