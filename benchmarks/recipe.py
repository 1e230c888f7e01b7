"""Describes a configuration for its PyTorch twin as plain JSON, or says why it has no twin."""

from typing import Any

from rtda_jax.adapt import build
from rtda_jax.augment.normalise import NORMALISATIONS
from rtda_jax.data.labels import class_set

TERMS = ("seg", "seg_aux16", "seg_aux32", "adv_output")
ADVERSARIES = ("fcd", "fcd_light")


def recipe(config: Any) -> dict[str, Any]:
    """Returns the recipe of a train stage's configuration, see `torch_twins.step.Twin`."""
    normalisation = NORMALISATIONS[build.normalisation_of(config)]
    optim = config.optim
    return {
        "model": config.model.name,
        "num_classes": len(class_set(config.benchmark.classes)),
        "adversary": config.adversary.network,
        "d_factor": config.adversary.d_factor,
        "objective": {name: weight for name, weight in config.objective.items() if weight},
        "fda_beta": config.fda_beta,
        "normalisation": {
            "order": list(normalisation.order),
            "mean": list(normalisation.mean),
            "std": list(normalisation.std),
        },
        "optim": {
            **{name: optim[name] for name in ("g_lr", "g_momentum", "g_decay", "d_lr", "power")},
            "d_betas": list(optim.d_betas),
            "steps": optim.schedule_steps or config.steps,
        },
    }


def no_inference_twin(config: Any) -> str:
    """Returns why the twin cannot segment like this configuration, or nothing."""
    if config.model.options:
        return f"the PyTorch twin has no model.options: {', '.join(config.model.options)}"
    return ""


# The values that the twin's training step supports; a missing field has the first value.
TRAINED = (
    ("model.batch_norm", ("batch",)),
    ("model.statistics", ("target", "both")),  # the twin updates both, which costs it nothing
    ("fda_other_betas", ((),)),
    ("fda_window", ("square",)),
    ("augment.colour", (0.0,)),
    ("augment.texture", ("none",)),
    ("optim.g_decayed", ("all",)),
    ("optim.g_groups", ("one",)),
    ("optim.warmup_steps", (0,)),
    ("optim.schedule", ("poly",)),
    ("optim.schedule_every_steps", (1,)),
    ("pixel_loss", ("cross_entropy",)),
    ("labelled", ("source",)),
    ("loss.weighting", ("none",)),
    ("loss.reduction", ("weights", "valid")),
    ("adversary.view", ("softmax",)),
    ("adversary.gan_loss", ("bce",)),
    ("adversary.network", ADVERSARIES),
)


def no_training_twin(config: Any) -> str:
    """Returns why the twin cannot train like this configuration, or nothing."""
    fields = config.to_dict()
    for field, known in TRAINED:
        group, _, name = field.rpartition(".")
        value = (fields.get(group, {}) if group else fields).get(name, known[0])
        if value not in known:
            return f"the PyTorch twin has no {field} {value!r}, only {', '.join(map(str, known))}"
    for name, weight in config.objective.items():
        if weight and name not in TERMS:
            return f"the PyTorch twin has no term {name!r}, only {', '.join(TERMS)}"
    if config.model.name.startswith("deeplab"):
        return "the PyTorch twin of DeepLab does not train (its normalisations are part frozen)"
    return no_inference_twin(config)
