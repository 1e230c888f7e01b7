"""What a run's log says about its health: a warning names what is collapsing, once."""

from collections.abc import Mapping

PATIENCE = 3  # log steps in a row before a warning

CERTAIN = 0.99  # a discriminator this often right on both domains teaches nothing
CONFIDENT = 0.01  # mean entropy of the target below this: the network is sure of everything
ALONE = 1.5  # effective classes of the target's predictions below this: one class takes all
OVERPOWERED = 10.0  # a view's share of the gradient at the outputs over the source's
VIEWS = ("target", "weak", "strong", "mixed")


def symptoms(record: Mapping[str, float]) -> dict[str, str]:
    """What is wrong at one log step, by the name of the sign.

    record: the means of a log step as `rtda_jax.adapt.step` gives them; absent values are healthy.
    """
    found = {}
    for key, source in record.items():
        if key.startswith("d_") and key.endswith("_accuracy_source"):
            level = key.removeprefix("d_").removesuffix("_accuracy_source")
            target = record[f"d_{level}_accuracy_target"]
            if min(source, target) > CERTAIN:
                found[key] = (
                    f"discriminator {level} tells the domains apart {min(source, target):.0%} of "
                    "the time: it no longer teaches; lower optim.d_lr or raise objective.adv_*"
                )
    if record.get("target_entropy", 1.0) < CONFIDENT:
        found["target_entropy"] = (
            f"mean entropy of the target's predictions is {record['target_entropy']:.3f}: the "
            "network is sure of everything; lower the entropy or pseudo-label weights"
        )
    if record.get("target_classes", ALONE) < ALONE:
        found["target_classes"] = (
            f"the target's predictions spread over {record['target_classes']:.1f} classes: one "
            "class is taking all"
        )
    source = record.get("pull_source", 0.0)
    for view in VIEWS:
        pull = record.get(f"pull_{view}", 0.0)
        if source and pull > OVERPOWERED * source:
            found[f"pull_{view}"] = (
                f"the terms of the {view} images pull {pull / source:.0f} times as hard at the "
                "outputs as the source's: lower their weights"
            )
    return found


class Alarm:
    """Turns log records into warnings: after `PATIENCE` records in a row, and only once each."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def __call__(self, record: Mapping[str, float]) -> list[str]:
        """The warnings this record completes."""
        found = symptoms(record)
        self.seen = {sign: self.seen.get(sign, 0) + 1 for sign in found}
        return [text for sign, text in found.items() if self.seen[sign] == PATIENCE]
