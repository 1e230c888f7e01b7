"""The plan of an experiment: each stage's own configuration, checked before anything runs."""

from typing import Any

from ml_collections import ConfigDict

from rtda_jax import evaluate
from rtda_jax.adapt import pseudo_labels
from rtda_jax.errors import ConfigError
from rtda_jax.stages import validation

KINDS = ("train", "pseudo_label", "statistics", "evaluate")
READS_NETWORKS = ("pseudo_label", "statistics", "evaluate")  # named by the stage's `models`
LEAVES_A_NETWORK = ("train", "statistics")

# The least value of fields that a mistyped number would only stop in the middle of a run.
LEAST = {
    "steps": 1,
    "batch_size": 1,
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
    "cache_gib": 0,
    "stall_seconds": 0,
    "threads": 0,
    "eval.pictures": 0,
    "eval.validator_images": 0,
    "optim.g_lr": 0,
    "optim.d_lr": 0,
    "optim.schedule_steps": 0,
    "optim.schedule_every_steps": 1,
    "statistics.batches": 0,
    "adversary.d_factor": 0,
    "loss.eta": 0,
}

Plan = dict[str, ConfigDict]


def stages(config: ConfigDict) -> Plan:
    """Each stage's own configuration: the experiment's fields with the stage's overrides.

    A statistics stage has those of the stage whose network it changes. The stage's `kind` and the
    `models` it reads are fields of the result.

    Raises:
      ConfigError: naming the stage and what is wrong with it.
    """
    plan: Plan = {}
    for name in config.stages:
        if name not in config.stage:
            raise ConfigError(
                f"stages names {name!r}, stage has only: {', '.join(sorted(config.stage))}"
            )
        overrides = config.stage[name].to_dict()
        kind = overrides.pop("kind")
        if kind not in KINDS:
            raise ConfigError(f"stage {name}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
        models = tuple(overrides.pop("models", ())) if kind in READS_NETWORKS else ()
        try:
            _check_models(plan, kind, models)
            merged = _base(plan, config, models if kind == "statistics" else ())
            with merged.unlocked():
                merged.kind, merged.models = kind, models
            merged.lock().update(overrides)
            _check_numbers(merged)
            CHECKS[kind](plan, merged)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"stage {name}: {error}") from None
        plan[name] = merged
    return plan


def parse(reference: str) -> tuple[str, str]:
    """Stage and weights ("student" or "teacher") of "STAGE" or "STAGE:teacher"."""
    stage, colon, weights = reference.partition(":")
    if colon and weights != "teacher":
        raise ConfigError(f"{reference!r}: after the colon only 'teacher' is known")
    return stage, weights or "student"


def _base(plan: Plan, config: ConfigDict, models: tuple[str, ...]) -> ConfigDict:
    """The fields a stage overrides: those of the stage whose network it changes, or of all."""
    if models:
        return plan[parse(models[0])[0]].copy_and_resolve_references()
    merged = config.copy_and_resolve_references()
    with merged.unlocked():
        del merged["stages"], merged["stage"]
    return merged


def _check_models(plan: Plan, kind: str, models: tuple[str, ...]) -> None:
    if kind in READS_NETWORKS and not models:
        raise ConfigError(f"kind {kind!r} needs models, the stages whose networks it reads")
    if kind == "statistics" and len(models) != 1:
        raise ConfigError(f"kind 'statistics' reads one model, got {len(models)}")
    for model in models:
        _earlier(plan, model, LEAVES_A_NETWORK)


def _earlier(plan: Plan, reference: str, kinds: tuple[str, ...]) -> None:
    stage, weights = parse(reference)
    if stage not in plan or plan[stage].kind not in kinds:
        raise ConfigError(f"{reference!r} is no earlier {' or '.join(kinds)} stage")
    if weights == "teacher" and (plan[stage].kind != "train" or plan[stage].teacher.kind == "none"):
        raise ConfigError(f"{reference!r}: that stage trains no teacher")


def _check_numbers(stage: ConfigDict) -> None:
    for field, least in LEAST.items():
        value: Any = stage
        for name in field.split("."):
            value = value[name]
        if value < least:
            raise ConfigError(f"{field} must be at least {least}, got {value:g}")


def _check_train(plan: Plan, stage: ConfigDict) -> None:
    for term, weight in stage.objective.items():
        if weight < 0:
            raise ConfigError(f"objective.{term} must be at least 0, got {weight:g}")
    if stage.model.batch_norm == "frozen" and not (stage.init or stage.model.pretrained):
        raise ConfigError(
            "model.batch_norm='frozen' normalises by running statistics, which a fresh network has "
            "none of: give `init` or model.pretrained"
        )
    if stage.init:
        _earlier(plan, stage.init, LEAVES_A_NETWORK)
    if stage.pseudo_labels:
        _earlier(plan, stage.pseudo_labels, ("pseudo_label",))


def _check_pseudo_label(plan: Plan, stage: ConfigDict) -> None:
    rule, benchmark = stage.pseudo, stage.benchmark
    pseudo_labels.check(
        fusion=rule.fusion,
        cut=rule.cut,
        cap=rule.cap,
        index=rule.index,
        maps=len(stage.models) * len(rule.heads),
    )
    for field, known in (("scope", SCOPES), ("split", SPLITS)):
        if rule[field] not in known:
            raise ConfigError(
                f"unknown pseudo.{field} {rule[field]!r}; known: {', '.join(sorted(known))}"
            )
    images = _images(benchmark.target)
    if rule.split == "target" and any(images[1:]) and images == _images(benchmark.eval):
        raise ConfigError(
            "benchmark.target holds the images that scores are measured on; labelling them for "
            "training makes the scores worthless, pseudo.split='eval' does it all the same"
        )


def _check_evaluate(plan: Plan, stage: ConfigDict) -> None:
    del plan
    validation.check(stage.eval.validators)
    fields = {name: stage.eval[name] for name in PROTOCOL}
    evaluate.check(**fields)


PROTOCOL = ("mode", "window", "stride", "scales", "mirror", "align")
SCOPES = ("dataset", "image")
SPLITS = ("target", "eval")


def _images(spec: Any) -> tuple:
    return tuple(spec.get(field, "") for field in ("name", "split", "images", "list"))


CHECKS = {
    "train": _check_train,
    "pseudo_label": _check_pseudo_label,
    "statistics": lambda plan, stage: None,
    "evaluate": _check_evaluate,
}
