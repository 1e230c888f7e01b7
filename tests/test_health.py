import pytest

from rtda_jax.run.health import PATIENCE, Alarm, symptoms

HEALTHY = {
    "d_output_accuracy_source": 0.8,
    "d_output_accuracy_target": 0.7,
    "target_entropy": 0.4,
    "target_classes": 9.0,
    "pull_source": 1.0,
    "pull_target": 0.2,
}


def test_a_healthy_log_and_one_without_these_values_are_silent():
    assert symptoms(HEALTHY) == symptoms({"loss": 1.0}) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_output_accuracy_source": 1.0, "d_output_accuracy_target": 0.995}, "discriminator out"),
        ({"target_entropy": 0.001}, "sure of everything"),
        ({"target_classes": 1.1}, "one class is taking all"),
        ({"pull_target": 50.0}, "50 times as hard"),
    ],
)
def test_each_injected_collapse_is_named_once_after_some_patience(change, words):
    alarm, said = Alarm(), []
    for _ in range(2 * PATIENCE):
        said.append(alarm({**HEALTHY, **change}))
    assert [len(warnings) for warnings in said] == [0] * (PATIENCE - 1) + [1] + [0] * PATIENCE
    assert words in said[PATIENCE - 1][0]


def test_one_sided_accuracy_is_healthy_and_a_recovery_starts_the_count_again():
    assert symptoms({**HEALTHY, "d_output_accuracy_source": 1.0}) == {}
    alarm = Alarm()
    sick = {**HEALTHY, "target_entropy": 0.0}
    assert not any(alarm(r) for r in [sick, sick, HEALTHY, sick, sick])
    assert alarm(sick)
