"""Records, configurations and seals from elsewhere, mutilated: a named error or a result."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest
from bindings import begin
from hypothesis import given, settings
from hypothesis import strategies as st
from mutilate import JSONS, changed, fuzz, mutilated

from configs import base
from rtda_jax import experiment
from rtda_jax.deploy import networks
from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.run import checkpoint
from rtda_jax.run.binding import claim
from rtda_jax.run.options import plain
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan

PLAIN = plain(base.get_config())
RECORDS = [json.dumps(PLAIN).encode(), b'{"stages": ["train"], "stage": {"train": {"kind": "x"}}}']


@fuzz
@given(st.sampled_from(["config.json", "train/bound.json"]), mutilated([*RECORDS, b"[" * 100_000]))
def test_the_record_of_a_stage(tmp_path, name, data):
    begin_once(tmp_path)
    (tmp_path / "train" / "bound.json").unlink(missing_ok=True)
    (tmp_path / name).write_bytes(data)
    with contextlib.suppress(ConfigError):
        claim(tmp_path, PLAIN, KINDS)


def begin_once(workdir):
    if not (workdir / "train").exists():
        begin(workdir, "train")


@fuzz
@given(mutilated(JSONS))
def test_config_json(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        claim(tmp_path, {"a": {"b": 1}}, KINDS)


@fuzz
@given(mutilated(JSONS))
def test_results_json(tmp_path, data):
    (tmp_path / "results.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        experiment.first_command(tmp_path)


@settings(fuzz, max_examples=150)
@given(st.data())
def test_configurations_of_another(tmp_path, data):
    config = json.dumps(plain(base.get_config()))
    (tmp_path / "config.json").write_text(data.draw(changed(config)))
    with contextlib.suppress(ConfigError):
        make_plan(networks.recorded(tmp_path, defaults=base.unchanged), KINDS)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "x"},
        {"optim": 3},
        {"stages": [[1]]},
        {"seed": []},
        {"stages": ["../x"], "stage": {"../x": {"kind": "train"}}},
    ],
)
def test_the_file_of_a_configuration_is_named(tmp_path, change):
    config = plain(base.get_config()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json"):
        networks.recorded(tmp_path, defaults=base.unchanged)


@fuzz
@given(mutilated([b'{"a": [1, "00"], "default/d/x": [3, "ff"]}', *JSONS]))
def test_seals(tmp_path, data):
    folder = tmp_path / "4"
    folder.mkdir(exist_ok=True)
    (folder / "a").write_bytes(b"x")
    (folder / checkpoint.MANIFEST).write_bytes(data)
    assert isinstance(checkpoint.why_damaged(folder), str)


# A thread of orbax that comes too late says so to nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_without_a_seal(tmp_path):
    """What an earlier release left, or what comes from elsewhere: restored or a named error."""
    state = {"a": np.arange(40, dtype=np.float32).reshape(8, 5), "n": np.int32(3)}
    with checkpoint.manager(tmp_path / "whole", keep=2) as held:
        checkpoint.save(held, state, step=1)
    (tmp_path / "whole" / "1" / checkpoint.MANIFEST).unlink()
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = checkpoint.abstract(state, one)
    names = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")]
    names = sorted(n for n in names if (tmp_path / "whole" / n).is_file())

    @settings(fuzz, max_examples=60, deadline=None)
    @given(st.data())
    def check(data):
        folder = tmp_path / "torn"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / data.draw(st.sampled_from(names))
        path.write_bytes(data.draw(mutilated([path.read_bytes()])))
        with contextlib.suppress(CheckpointError), checkpoint.manager(folder, keep=2) as held:
            found = checkpoint.restore(held, wanted)
            assert found["a"].shape == (8, 5)

    check()
