import contextlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import folder_config

from rtda_jax import experiment
from rtda_jax.cli import JOBS
from rtda_jax.errors import ConfigError, Interrupted
from rtda_jax.run.workdir import write_json

pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture(scope="module")
def one_stage(root):
    made = folder_config(root, "adversarial", steps=2)
    made.eval.pictures, made.eval.validators = 1, ()
    return made.lock()


def result_of(seed, miou, car):
    return {
        "benchmark": "streets",
        "commit": "abc",
        "seed": seed,
        "stages": {
            "train": {"step": 5},
            "evaluate": {"miou": miou, "pixel_accuracy": 0.5, "iou": {"road": 0.5, "car": car}},
        },
    }


def test_mean_and_sample_standard_deviation():
    runs = [result_of(0, 0.1, None), result_of(1, 0.2, 0.3), result_of(2, 0.6, 0.5)]
    summary = experiment.summarise(runs)
    assert summary["seeds"] == [0, 1, 2]
    assert list(summary["stages"]) == ["evaluate"]
    score = summary["stages"]["evaluate"]["miou"]
    assert score["values"] == [0.1, 0.2, 0.6]
    assert score["mean"] == pytest.approx(0.3)
    assert score["std"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    car = summary["stages"]["evaluate"]["iou"]["car"]
    assert (car["mean"], car["values"]) == (pytest.approx(0.4), [None, 0.3, 0.5])
    assert "evaluate  30.0 ± 26.5  10.0 20.0 60.0  50.0 ± 0.0" in experiment.summary_table(summary)
    assert experiment.summarise([result_of(0, None, None)])["stages"] == {}  # without labels
    alone = experiment.summarise(runs[:1])
    assert alone["stages"]["evaluate"]["miou"]["std"] is None
    assert "10.0  " in experiment.summary_table(alone)


def test_each_seed_is_a_run_of_its_own_and_the_first_compiles_for_all(one_stage, tmp_path):
    misses, job = [], experiment.run

    def count(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            misses[-1] += 1

    def counted(config, workdir):
        misses.append(0)
        return job(config, workdir)

    floor = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.monitoring.register_event_listener(count)
    try:
        summary = experiment.run_seeds(one_stage, tmp_path, count=2, job=counted)
    finally:
        jax.monitoring.unregister_event_listener(count)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", floor)
    assert len(misses) == 2
    assert misses[1] == 0
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    for seed in (0, 1):
        result = json.loads((tmp_path / f"seed{seed}" / "results.json").read_text())
        assert result["seed"] == result["config"]["seed"] == seed
        miou = result["stages"]["evaluate"]["miou"]
        assert summary["stages"]["evaluate"]["miou"]["values"][seed] == miou
    rows = [(tmp_path / f"seed{s}" / "train" / "metrics.jsonl").read_text() for s in (0, 1)]
    assert (
        json.loads(rows[0].splitlines()[0])["loss"] != json.loads(rows[1].splitlines()[0])["loss"]
    )


def test_an_interrupted_seed_leaves_the_summary_of_the_finished_ones(one_stage, tmp_path):
    def job(config, workdir):
        if config.seed == 1:
            raise Interrupted("stopped after step 1")
        return result_of(config.seed, 0.1, 0.2)

    with pytest.raises(Interrupted):
        experiment.run_seeds(one_stage, tmp_path, count=3, job=job)
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [0]


def test_evaluating_again_keeps_the_summary_until_the_new_one_has_as_many_seeds(
    one_stage, tmp_path
):
    def summary():
        return json.loads((tmp_path / "summary.json").read_text())

    def evaluated(miou, *, until):
        def job(config, workdir):
            if config.seed == until:
                raise Interrupted("stopped in stage evaluate")
            result = result_of(config.seed, miou, 0.2)
            write_json(workdir / "results.json", result)
            return result

        with contextlib.suppress(Interrupted):
            experiment.run_seeds(one_stage, tmp_path, count=3, job=job)
        return summary()["stages"]["evaluate"]["miou"]["values"]

    assert evaluated(0.1, until=2) == [0.1, 0.1]
    assert evaluated(0.2, until=1) == [0.1, 0.1]
    assert evaluated(0.3, until=2) == [0.3, 0.3]
    assert evaluated(0.4, until=3) == [0.4, 0.4, 0.4]
    assert evaluated(0.5, until=2) == [0.4, 0.4, 0.4]
    for seed in (0, 1, 2):  # they begin anew
        (tmp_path / f"seed{seed}" / "results.json").unlink()
    assert evaluated(0.6, until=1) == [0.6]
    assert evaluated(0.7, until=3) == [0.7, 0.7, 0.7]
    for damaged in ("{", '{"seeds": 3}'):
        (tmp_path / "summary.json").write_text(damaged)
        assert evaluated(0.7, until=1) == [0.7]
    fewer = experiment.run_seeds(
        one_stage, tmp_path, count=2, job=lambda c, _: result_of(c.seed, 0.8, 0.2)
    )
    assert fewer == summary()


def test_arguments_that_make_no_sense_are_refused(one_stage, tmp_path):
    with pytest.raises(ConfigError, match="--seeds must be 1 or more, got 0"):
        experiment.run_seeds(one_stage, tmp_path, count=0, job=None)
    other = one_stage.copy_and_resolve_references()
    other.seed = 3
    with pytest.raises(ConfigError, match=r"runs seeds 0 to 1; config\.seed must stay 0"):
        experiment.run_seeds(other, tmp_path, count=2, job=None)


@pytest.mark.parametrize("job", ["train", "evaluate"])
def test_a_workdir_of_several_seeds_needs_their_count_or_one_of_them(
    one_stage, tmp_path, monkeypatch, job
):
    done = []
    monkeypatch.setattr(experiment, "run", lambda config, workdir: done.append(workdir))
    monkeypatch.setattr(experiment, "reevaluate", experiment.run)
    command = SimpleNamespace(config=one_stage, workdir=tmp_path, flags=SimpleNamespace(seeds=None))
    for seed in range(3):
        write_json(tmp_path / f"seed{seed}" / "config.json", {})
    message = f"3 seeds: add --seeds=3, or name one of them, --workdir={tmp_path}/seed0"
    with pytest.raises(ConfigError, match=message):
        JOBS[job].run(command)
    assert not done
    write_json(tmp_path / "config.json", {})  # it also is a run
    JOBS[job].run(command)
    assert done == [tmp_path]
