"""Batches and configurations small enough for two CPU cores."""

import importlib
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.data.labels import class_set
from rtda_jax.data.streets import render
from rtda_jax.models.layers import Conv, ConvNorm, Network
from rtda_jax.run import checkpoint
from rtda_jax.run.options import plain
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan

SIZE = (32, 64)


def environment():
    """The variables of another process that runs this clone on the CPU, with the same cache."""
    return {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }


class Tiny(Network):
    """A segmentation network of a few convolutions, with everything the stages rely on."""

    heads: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, images, *, train=False):
        x = ConvNorm(8, 3, Conv, self.norm_layer(), stride=2, name="backbone")(images, train=train)
        heads = ("logits", *(self.heads if self.computes_auxiliary(train=train) else ()))
        shape = (*images.shape[:3], self.num_classes)
        scores = {head: nn.Conv(self.num_classes, (1, 1), name=head)(x) for head in heads}
        outputs = {h: jax.image.resize(z, shape, "bilinear") for h, z in scores.items()}
        return {**outputs, "feature": x}

    def group(self, path):
        return "heads" if path[0].startswith("aux") else "trunk"


class TinyDiscriminator(nn.Module):
    """Two convolutions from [B,H,W,C] to logits."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(1, (4, 4), strides=4)(nn.leaky_relu(nn.Conv(8, (4, 4), strides=4)(x), 0.2))


def shrink(monkeypatch):
    """Let every configuration build tiny networks that have all heads."""
    from rtda_jax.adapt import build, optim

    def model(name, *, num_classes, axis_name, batch_norm, dtype, **options):
        heads = options.get("heads", ("aux4", "aux8", "aux16", "aux32"))
        return Tiny(num_classes, axis_name, batch_norm, heads=heads)

    monkeypatch.setattr(build, "create_model", model)
    monkeypatch.setattr(optim, "DeepLab", Tiny)  # whose trunk the released SGD repeats
    monkeypatch.setattr(build, "create_discriminator", lambda *a, **b: TinyDiscriminator())


def config(name="source_only", arg="", **fields):
    """A config file's configuration at a tiny size; dotted fields override."""
    module = importlib.import_module(f"configs.{name}")
    made = module.get_config(arg)
    made.benchmark.size = made.benchmark.crop = made.benchmark.eval_size = SIZE
    made.batch_size, made.steps = 4, 6
    made.checkpoint_every_steps, made.log_every_steps = 2, 1
    made.optim.g_lr = 0.01
    for field, value in fields.items():
        made.update_from_flattened_dict({field.replace("__", "."): value})
    return made


def batch(step=0, *, size=4, seed=0, classes=19, target=True):
    """The batch of a step: blocks of colour whose class follows from the colour."""
    rng = np.random.default_rng([seed, step])
    height, width = SIZE
    labels = rng.integers(0, classes, (size, height // 8, width // 8)).astype(np.uint8)
    labels = labels.repeat(8, 1).repeat(8, 2)
    palette = np.random.default_rng(99).integers(0, 256, (classes, 3))
    noise = rng.integers(-10, 11, (size, height, width, 3))
    images = np.clip(palette[labels] + noise, 0, 255).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    made = {"source_image": images, "source_label": labels}
    made["source_index"] = np.arange(step * size, (step + 1) * size, dtype=np.int32)
    if target:
        other = palette[rng.integers(0, classes, (size, height // 8, width // 8))]
        other = 0.6 * other.repeat(8, 1).repeat(8, 2) + 40
        made["target_image"] = np.clip(other, 0, 255).astype(np.uint8)
        # What a pseudo_label stage would have found for it.
        made["target_label"] = rng.choice(np.array([0, 1, 2, 255], np.uint8), labels.shape)
    return made


def in_training(state, images, module=None):
    """The outputs of a state's network, by default a tiny one, and its new running statistics."""
    variables = state.network
    outputs, new = (module or Tiny()).apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, new["batch_stats"]


def normalised(images):
    """What a network reads of images in [0,255], as PyTorch's models have it."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    return np.float32((np.float64(images) - mean) / std)


def streets_batch(step=0, *, size=4):
    """A batch of the built-in scenes, rendered here."""
    lut = class_set("cityscapes19").lut("cityscapes_ids")
    indices = range(step * size, (step + 1) * size)
    game = [render("game", i, height=SIZE[0], width=SIZE[1]) for i in indices]
    camera = [render("camera", i, height=SIZE[0], width=SIZE[1]) for i in indices]
    return {
        "source_image": np.stack([image for image, _ in game]),
        "source_label": np.stack([lut[label] for _, label in game]),
        "target_image": np.stack([image for image, _ in camera]),
    }


def batches(start, *, target=True, size=4):
    """An endless stream from a step on, as `train` takes it."""
    step = start
    while True:
        yield batch(step, target=target, size=size)
        step += 1


def write_folders(root, *, count=4, size=(40, 80), seed=0):
    """A tiny labelled pair of folders, `source` and `target`, as PNG files with Cityscapes ids."""
    ids = np.array([7, 8, 11, 21, 23, 26], np.uint8)
    colours = np.random.default_rng(5).integers(0, 256, (256, 3))
    for d, domain in enumerate(("source", "target")):
        for folder in ("images", "labels"):
            (root / domain / folder).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([seed, d, i])
            labels = rng.choice(ids, (size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1)
            image = np.clip(colours[labels] * (1 - 0.3 * d) + rng.normal(0, 6, (*size, 3)), 0, 255)
            Image.fromarray(image.astype(np.uint8)).save(root / domain / "images" / f"{i:03d}.png")
            Image.fromarray(labels).save(root / domain / "labels" / f"{i:03d}.png")


def folder_fields(root):
    """The fields that point the benchmark `folders` at what `write_folders` wrote."""
    fields = {"data_dir": str(root)}
    for use, domain in (
        ("source", "source"),
        ("target", "target"),
        ("target_labelled", "target"),
        ("eval", "target"),
    ):
        fields[f"benchmark.{use}.images"] = f"{domain}/images"
        if use != "target":
            fields[f"benchmark.{use}.labels"] = f"{domain}/labels"
    return fields


class Pixelwise(nn.Module):
    """Logits of each pixel from its colour alone, at the input's resolution."""

    classes: int = 19

    @nn.compact
    def __call__(self, images, *, train=False):
        return {"logits": nn.Dense(self.classes, name="dense")(images), "feature": images}


def pixelwise(seed=0, *, classes=19):
    """A pixelwise model, and the NumPy function from images [...,3] to its logits [...,K]."""
    module = Pixelwise(classes)
    variables = module.init(jax.random.key(seed), jnp.zeros((1, 2, 2, 3)))
    dense = variables["params"]["dense"]
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

    def scores(image):
        x = (image.astype(np.float64) - mean) / std
        return x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])

    return evaluate.Model(module, variables, "imagenet"), scores


def softmax(scores):
    """Over the last axis."""
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


# A large and a small network that are trained together.
LARGE, SMALL = "bisenet_resnet101", "bisenet_resnet18"


def online(**fields):
    """Both networks learn from labels and mixed images, the small one also from soft labels."""
    made = config(
        "source_only",
        model__name=SMALL,
        model__large=LARGE,
        teacher__kind="ema",
        teacher__decay=0.9,
        teacher__temperature=2.0,
        teacher__inconsistency=1.5,
        mix__among="batch",
    )
    made.objective.update({"mix": 1.0, "distil": 1.0, "distil_aux16": 0.5})
    made.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return made


def write_workdir(made, workdir):
    """A workdir whose train stages are at their last step, with random weights."""
    write_json(workdir / "config.json", plain(made))
    for seed, (name, stage) in enumerate(make_plan(made, KINDS).items()):
        if stage.kind == "train":
            shapes = jax.eval_shape(lambda s=stage: build.initial_state(s.method))
            state = {"g_params": shapes.g_params, "g_stats": shapes.g_stats}
            rng = np.random.default_rng(seed)

            def fill(path, x, rng=rng):
                if x.ndim == 4:
                    return rng.normal(0, (2 / x.size * x.shape[-1]) ** 0.5, x.shape).astype("f4")
                return np.full(x.shape, path[-1].key in ("scale", "var"), x.dtype)

            with checkpoint.manager(workdir / name / "checkpoints", keep=2) as held:
                filled = jax.tree_util.tree_map_with_path(fill, state)
                checkpoint.save(held, filled, step=stage.config.steps)


def get(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def stages(config):
    """Returns the configuration of every stage by its name."""
    return {name: stage.config for name, stage in make_plan(config.lock(), KINDS).items()}


def trained(plan):
    """Returns what each train stage of a plan trains, as `GOLDEN` has it."""
    return {
        name: (
            {term: weight for term, (_, weight) in stage.method.objective.items()},
            stage.config.fda_beta,
            stage.config.labelled,
        )
        for name, stage in plan.items()
        if stage.kind == "train"
    }


def folder_config(root, name="fda_mbt", **fields):
    made = config(name, "folders", **{"steps": 3, **fields})
    made.update_from_flattened_dict(folder_fields(root))
    made.eval.pictures = 2
    return made
