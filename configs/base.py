"""Every field of an experiment, with its default. The other files change a few of them."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import benchmarks
from rtda_jax.errors import ConfigError


def parse(arg: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Split `BENCHMARK,option=value` into the benchmark's name and the options.

    An option's default decides its type. Where it is a tuple, the value must be one of its words
    and the first is the default.
    """
    benchmark = ""
    found = {k: v[0] if isinstance(v, tuple) else v for k, v in options.items()}
    for part in filter(None, arg.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            benchmark = part
        elif name not in options:
            raise ConfigError(f"unknown option {name!r} in {arg!r}; known: {', '.join(options)}")
        elif isinstance(options[name], tuple):
            if value not in options[name]:
                known = ", ".join(options[name])
                raise ConfigError(f"{name} in {arg!r} must be one of {known}, got {value!r}")
            found[name] = value
        else:
            try:
                found[name] = type(options[name])(value)
            except ValueError:
                raise ConfigError(f"{name} in {arg!r} must be a number, got {value!r}") from None
    return benchmark, found


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
    config.model.options = ConfigDict()  # further fields of that network; from a config file
    config.model.batch_norm = "batch"  # or "frozen": running statistics also while training
    config.model.statistics = "target"  # whose images update them; "both": as the papers' code
    config.model.pretrained = ""  # weight file (.pth, .safetensors, .npz); empty: from scratch
    config.model.pretrained_part = "backbone"  # or "all": the whole network
    config.model.pretrained_naming = ""  # where a file's naming is not unique; empty: recognised
    config.normalisation = "imagenet"  # a key of rtda_jax.augment.normalise.NORMALISATIONS
    config.dtype = "float32"  # of the computation; parameters are always float32

    # The objective: weighted named terms (rtda_jax/adapt/terms.py); a weight of 0 is not traced.
    config.objective = ConfigDict()
    config.objective.seg = 1.0  # main head on the labelled domain
    config.objective.seg_aux16 = 1.0  # auxiliary heads
    config.objective.seg_aux32 = 1.0
    config.objective.seg_aux4 = 0.0  # further heads of bisenet_mpg_*
    config.objective.seg_aux8 = 0.0
    config.objective.adv_output = 0.0  # deceive the discriminator of the main output
    config.objective.adv_aux16 = 0.0  # ... of auxiliary outputs
    config.objective.adv_aux32 = 0.0
    config.objective.adv_feature = 0.0  # ... of the features in front of the classifier
    config.objective.minent = 0.0  # entropy of the target's predictions in [0,1]
    config.objective.minent_aux16 = 0.0
    config.objective.robust_entropy = 0.0  # FDA's: the same, squared, to the power loss.eta
    config.objective.pseudo = 0.0  # target images with the labels of a pseudo_label stage
    config.objective.pseudo_aux16 = 0.0
    config.objective.pseudo_aux32 = 0.0
    config.objective.mix = 0.0  # class-mixed images, labelled by the teacher
    config.objective.mix_aux16 = 0.0
    config.objective.mix_aux32 = 0.0
    config.objective.consistency = 0.0  # strong views of the target against weak ones (TUFL)
    config.objective.consistency_aux16 = 0.0
    config.objective.consistency_aux32 = 0.0
    config.pixel_loss = "cross_entropy"  # of seg terms; or "focal", "ohem"
    config.fda_beta = placeholder(float)  # stylise the source after the target; None does not
    config.fda_window = "square"  # of frequencies; or "rectangle", "corners" (rtda_jax/fda.py)

    config.loss = ConfigDict()
    config.loss.weighting = "none"  # of classes: "given" in `weights`, "enet" from the labelled set
    config.loss.weights = ()  # one number a class
    config.loss.enet_c = 1.02  # weight 1 / ln(c + frequency)
    config.loss.reduction = "weights"  # sum over: weights of valid pixels; "valid", "pixels"
    config.loss.gamma = 2.0  # of "focal" (S0: 1 in the text, 2 in the code)
    config.loss.ohem_probability = 0.7  # "ohem" keeps the pixels less sure than this
    config.loss.ohem_rule = "pixels"  # and at least a 16th of: all "pixels", the "valid" ones
    config.loss.eta = 2.0  # exponent of robust_entropy

    config.init = ""  # the earlier stage whose networks this one starts from; empty: fresh ones

    config.teacher = ConfigDict()
    config.teacher.kind = "none"  # or "ema" of the student, or "frozen" as it started
    config.teacher.decay = 0.99  # of "ema", over parameters and running statistics alike
    config.mix = ConfigDict()
    config.mix.threshold = 0.968  # target pixels count by the share of them surer than this
    config.mix.colour = "strong"  # DACS's, of the mixed image; or "tufl_strong", "none"
    config.mix.ignore = "never"  # the unlabelled is not cut out; "class": as if it were one (S4)
    config.mix.related = "none"  # classes cut out together: "gta5", "synthia" (S4)
    config.mix.boundary = 0  # pixels this near to the seam count twice (S4: an option)
    config.mix.boundary_blur = 0.0  # sigma of a blur of these pixels

    # Rare classes of other source images pasted on the source before it is mixed (TUFL).
    config.long_tail = ConfigDict()
    config.long_tail.probability = 0.0  # that an image gets any; 0 is off
    config.long_tail.slots = 2  # candidates the data layer offers such an image
    config.long_tail.count = (2, 2)  # range of how many are pasted
    config.long_tail.choice = "uniform"  # of classes; "threshold": the less sure the more often
    config.long_tail.classes = ()  # numbers of the classes; empty: all
    config.long_tail.related = "none"  # classes pasted along: "gta5", "synthia"
    config.long_tail.min_pixels = 1  # an image contains a class from so many pixels on

    config.consistency = ConfigDict()
    config.consistency.form = "difference"  # d = |p - q|; or "deficit", d = 1 - q
    config.consistency.gamma = 2.0
    config.consistency.temperature = 1.0  # the weak view's logits are divided by it
    config.consistency.threshold = "fixed"  # at `initial`, or "adaptive" for each class
    config.consistency.initial = 0.8
    config.consistency.alpha = 0.9  # share of the old threshold that is kept
    config.consistency.beta = 0.8  # share of a class's pixels that pass
    config.consistency.d = 8.0  # ... times threshold^d
    config.consistency.decay = 0.0  # above 0, what is kept is 1 - alpha exp(-decay step)
    config.affine = ConfigDict()  # of the strong view
    config.affine.rotation = 30.0  # degrees, either way
    config.affine.shear = 5.0
    config.affine.scale = (0.8, 1.2)
    config.affine.mirror = 0.5  # probability
    config.pseudo_labels = ""  # the earlier pseudo_label stage whose labels pseudo terms read
    config.pseudo = (
        ConfigDict()
    )  # how a pseudo_label stage makes them (rtda_jax/adapt/pseudo_labels.py)
    config.pseudo.heads = ("logits",)  # outputs whose softmax is fused, of every model it names
    config.pseudo.fusion = "mean"  # or "most_confident" (S2), "majority" (a true vote)
    config.pseudo.scope = "dataset"  # thresholds per class over the whole set, or of each "image"
    config.pseudo.cut = 0.5  # quantile of a class's confidences that is its threshold (S1: .66)
    config.pseudo.cap = 0.9  # thresholds are at most this
    config.pseudo.index = "round"  # of the quantile among n sorted confidences; S1: "floor"
    config.pseudo.split = "target"  # or "eval": labels the very images that scores are measured on
    config.statistics = ConfigDict()
    config.statistics.batches = 0  # target batches a statistics stage averages; 0: one epoch

    config.adversary = ConfigDict()
    config.adversary.network = "fcd"  # or "fcd_light"
    config.adversary.options = ConfigDict()  # its use_bias, output_stride; from a config file
    config.adversary.view = "softmax"  # it reads; or "self_information" (AdvEnt)
    config.adversary.gan_loss = "bce"  # or "least_squares"
    config.adversary.d_factor = 0.5  # discriminator loss: half the sum of both domains (S1: 1)

    config.optim = ConfigDict()
    config.optim.g_lr = benchmark.g_lr  # SGD, momentum, coupled weight decay, poly per iteration
    config.optim.g_momentum = 0.9
    config.optim.g_decay = 1e-4
    config.optim.g_decayed = "all"  # or "kernels": neither biases nor batch normalisation
    config.optim.g_groups = "one"  # learning rate; "heads" or "all" learn g_factor times faster
    config.optim.g_factor = 10.0
    config.optim.warmup_steps = 0  # of g_lr, exponential from warmup_start
    config.optim.warmup_start = 1e-5
    config.optim.d_lr = 1e-4  # Adam
    config.optim.d_betas = (0.9, 0.99)
    config.optim.power = 0.9  # of the poly schedule of both
    config.optim.schedule_steps = 0  # where poly reaches zero; 0: at `steps`
    config.optim.schedule_every_steps = 1  # how often poly changes (S0 to S2: once an epoch)

    config.rare_class = placeholder(float)  # temperature of sampling by rare classes (.01); or None
    config.cache_gib = 0.0  # of decoded images each domain may keep in memory
    config.augment = ConfigDict()
    config.augment.flip = True  # mirror image and label together, half of the time
    config.augment.scale = (1.0, 1.0)  # range of random zoom before the crop
    config.augment.colour = 0.0  # probability that a source image changes its colours (S1: 0.5)
    config.augment.contrast = (2.0, 6.0)  # range of the factor, S1's; 1 changes nothing
    config.augment.saturation = (1.0, 4.0)
    config.augment.texture = "none"  # of the source; or "tufl_source"
    config.augment.strong = "tufl_strong"  # of the strong view
    config.augment.draw = "image"  # noise and blur of these; "run": once (S4's released code)
    config.augment.target_moves = "each"  # mirror, zoom, crop of the target; "once" a run (S4's)

    config.eval = ConfigDict()
    config.eval.mode = "whole"  # or "slide": overlapping windows of size `window`
    config.eval.window = benchmark.crop  # sliding window (H, W)
    config.eval.stride = tuple((5 * side + 5) // 6 for side in benchmark.crop)
    config.eval.scales = (1.0,)  # of the sliding window; S4: (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    config.eval.mirror = False  # sliding windows read mirrored as well
    config.eval.align = "half_pixel"  # of resizes to the labels' size; "corners" (AdaptSegNet, S4)
    config.eval.pictures = 4  # rows of the picture grid
    config.eval.validators = (  # scores that read no target label (rtda_jax/stages/validators.py)
        "source_miou",
        "entropy",
        "information_maximisation",
        "nuclear_norm",
    )
    config.eval.validator_images = 100  # of source_eval that source_miou reads; 0: all

    config.log_every_steps = 20
    config.loggers = ()  # beside metrics.jsonl: "tensorboard" (pip install 'rtda_jax[tensorboard]')
    config.checkpoint_every_steps = 100
    config.checkpoint_keep = 2  # newest checkpoints held, 2 or more: one may get damaged
    config.on_not_finite = "stop"  # a loss or gradient is no number: stop, or skip that update
    config.stall_seconds = 1800.0  # nothing done for so long: stacks, exit code 6; 0: never
    config.threads = 2  # of the input pipeline; the data do not depend on it

    # The experiment: named stages in order; each overrides fields above for itself.
    config.stages = ("train", "evaluate")
    config.stage = ConfigDict()
    config.stage.train = ConfigDict({"kind": "train"})
    config.stage.evaluate = ConfigDict({"kind": "evaluate", "models": ("train",)})
    return config
