"""The networks of a workdir, and the configuration that it records."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import config, write_workdir
from ml_collections import ConfigDict

from configs import base
from rtda_jax.deploy import networks
from rtda_jax.errors import ConfigError
from rtda_jax.run.options import plain
from rtda_jax.run.workdir import write_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A configuration, and a workdir in which it was trained."""
    workdir = tmp_path_factory.mktemp("run")
    made = config("fda").lock()
    write_workdir(made, workdir)
    return made, workdir


def recorded(workdir, **overrides):
    return networks.recorded(workdir, defaults=base.unchanged, overrides=overrides)


def test_an_untrained_workdir_is_refused(tmp_path):
    made = config().lock()
    for look in (recorded, lambda workdir: networks.check(made, workdir)):
        with pytest.raises(ConfigError, match="holds no run"):
            look(tmp_path)
    with pytest.raises(ConfigError, match=r"train is not trained; the job run trains it"):
        networks.choose(made, tmp_path)
    with pytest.raises(ConfigError, match="no stage 'x'; known: train, evaluate"):
        networks.choose(made, tmp_path, stage="x")


def test_a_workdir_of_several_seeds_names_them(tmp_path):
    for seed in ("seed0", "seed1"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"2 seeds; .*--weights={tmp_path}/seed0 or --weights="):
        recorded(tmp_path)


def test_a_run_is_known_by_its_own_record(trained):
    made, workdir = trained
    assert plain(recorded(workdir)) == plain(made)
    assert networks.choose(recorded(workdir), workdir, stage="train").names == ("train",)
    networks.check(made, workdir)
    other = config("fda", optim__g_lr=0.5).lock()
    with pytest.raises(ConfigError, match=r"optim\.g_lr: 0\.01 there, 0\.5 now"):
        networks.check(other, workdir)


def test_only_how_it_predicts_may_be_overridden(trained):
    found = recorded(trained[1], **{"eval.mode": "slide", "eval.window": (16, 32)})
    assert (found.eval.mode, tuple(found.eval.window)) == ("slide", (16, 32))
    found = recorded(trained[1], **{"benchmark.eval_size": (64, 96)})
    assert tuple(networks.choose(found, trained[1]).config.benchmark.eval_size) == (64, 96)
    with pytest.raises(ConfigError, match=r"--config\.benchmark\.crop would change what"):
        recorded(trained[1], **{"benchmark.crop": (64, 96)})
    with pytest.raises(ConfigError, match=r"--config\.seed would change what"):
        recorded(trained[1], seed=3)


def test_fields_an_older_run_lacks_are_at_their_defaults(trained, tmp_path):
    record = json.loads((trained[1] / "config.json").read_text())
    del record["eval"]["mirror"], record["teacher"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert plain(recorded(tmp_path)) == plain(trained[0])


def test_of_several_evaluate_stages_the_last_counts(tmp_path):
    made = config("fda_mbt").lock()
    write_workdir(made, tmp_path)
    chosen = networks.choose(made, tmp_path)
    assert (chosen.stage, chosen.names) == ("eval_mbt", ("beta_001", "beta_005"))
    assert len(chosen.models) == 2


@pytest.mark.parametrize("pair", ["streets", "folders", "gta5_to_cityscapes"])
def test_a_benchmark_of_somebodys_own_is_read_from_its_record(tmp_path, pair):
    """Pairs data sets as no shipped benchmark does, under a name that the package does not know."""
    made = base.make(pair)
    with made.ignore_type():
        made.benchmark.name = "from_my_garage"
        made.benchmark.source = base.make("folders").benchmark.source
        made.benchmark.source.images = "rendered"
        made.benchmark.source_eval = made.benchmark.target_labelled = None
    write_json(tmp_path / "config.json", plain(made))
    assert plain(recorded(tmp_path)) == plain(made)


def test_a_shipped_benchmark_may_lack_a_role(tmp_path):
    made = config("fda")
    made.benchmark.source_eval = None
    write_json(tmp_path / "config.json", plain(made))
    assert recorded(tmp_path).benchmark.source_eval is None


@pytest.mark.parametrize("field", ["model.name", "stage.train.model.name"])
def test_a_record_of_a_network_of_somebodys_own_asks_for_its_file(trained, tmp_path, field):
    record = ConfigDict(json.loads((trained[1] / "config.json").read_text()))
    record.stage.train.model = {"name": "bisenet_resnet18"}
    record.update_from_flattened_dict({field: "mine"})
    write_json(tmp_path / "config.json", record.to_dict())
    with pytest.raises(ConfigError, match=rf"unknown {field} 'mine'; .* give --config FILE\.py"):
        recorded(tmp_path)
    write_json(tmp_path / "config.json", record.to_dict() | {"code": "mine.py:x=1 0123"})
    with pytest.raises(ConfigError, match=r"give --config mine\.py:x=1 and the flags"):
        recorded(tmp_path)


def test_a_network_of_a_run_with_own_terms_needs_no_file(trained, tmp_path):
    record = json.loads((trained[1] / "config.json").read_text())
    shutil.copytree(trained[1], tmp_path / "run")

    def chosen(**objective):
        record["objective"] |= objective
        write_json(tmp_path / "run" / "config.json", record)
        return networks.choose(recorded(tmp_path / "run"), tmp_path / "run")

    ours, theirs = (c.models[0].variables for c in (networks.choose(*trained), chosen(mine=0.1)))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))
    with pytest.raises(ConfigError, match="unknown term of the objective 'mine'; known"):
        chosen(**(dict.fromkeys(record["objective"], 0.0) | {"mine": 0.1}))


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not the JSON this program writes"):
        recorded(tmp_path)
