"""Records, configurations and seals from elsewhere, mutilated: a named error or a result."""

import contextlib
import copy
import json
import shutil

import jax
import numpy as np
import pytest
import test_report
from hypothesis import given, settings
from hypothesis import strategies as st
from mutilate import bounded, fuzz, mutilated
from PIL import Image

from configs import base
from rtda_jax import experiment
from rtda_jax.deploy import networks
from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.report import gallery, runs
from rtda_jax.report.contents import document
from rtda_jax.run import checkpoint
from rtda_jax.run.workdir import claim, plain
from rtda_jax.stages.plan import stages
from rtda_jax.tools import pictures

JSONS = [b'{"a": {"b": 1}, "stages": {"train": {"miou": 0.5}}}', b"[]", b"null", b"[" * 100_000]


@fuzz
@given(mutilated(JSONS))
def test_config_json(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        claim(tmp_path, {"a": {"b": 1}}, free=())


@fuzz
@given(mutilated(JSONS))
def test_results_json(tmp_path, data):
    (tmp_path / "results.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        experiment.command(tmp_path)


ODD = [
    None, True, -1, 0, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "x", "a:b", "../x",
    "\ud800", [], [1], [[1]], [{}], ["x"], {}, {"x": {}}, {"x": "y"}, {"..": {}}, "[" * 2000,
]  # fmt: skip


def nested(depth):
    """Lists in one another."""
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


def places(tree):
    """Every (container, key) of a tree of JSON."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [p for key in keys for p in [(tree, key), *places(tree[key])]]


@st.composite
def changed(draw, text):
    """JSON, one to three of its values replaced, removed or moved to another place."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        # Few of its values are at the top, where most is decided.
        top = [(container, key) for container, key in found if len(places(container[key])) > 20]
        container, key = draw(st.sampled_from(draw(st.sampled_from([found, top or found]))))
        if isinstance(container, dict) and draw(st.booleans()):
            value = container.pop(key)
            if draw(st.booleans()):
                container["x"] = value
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from([*ODD, nested(90)])))
    return json.dumps(tree)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The records of a run, and what its results.json says."""
    folder = test_report.write_run(tmp_path_factory.mktemp("runs") / "run", "fda_mbt", 0, skill=0.4)
    return folder, (folder / "results.json").read_text()


@settings(fuzz, max_examples=100)
@given(st.data())
def test_results_of_another(finished, data):
    folder, text = finished
    (folder / "results.json").write_text(data.draw(changed(text)))
    with contextlib.suppress(ConfigError):
        document([runs.load(folder)], speeds={}, published=())


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"null", b'{"seed": 1e999}'])
@pytest.mark.parametrize("name", ["results.json", "config.json"])
def test_records_that_are_none(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"stages": [[1]]}, r"config: field 'stages\[0\]' must be str, found \[1\]"),
        ({"stages": nested(80)}, "more than 64 objects and lists in one another"),
    ],
)
def test_stages_of_a_record_are_names(finished, tmp_path, value, said):
    record = json.loads(finished[1])
    record["config"] |= value
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=said):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("models", [{}], r"eval_mbt: field 'models\[0\]' must be str"),
        ("confusion", [["1"] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("confusion", [[-1] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("seconds", float("nan"), "eval_mbt: field 'seconds' must be 0 or more"),
    ],
)
def test_fields_of_an_evaluation(finished, tmp_path, field, value, said):
    record = json.loads(finished[1])
    record["stages"]["eval_mbt"][field] = value
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=said):
        runs.load(tmp_path)


def test_a_stage_of_a_record_is_no_path(finished, tmp_path):
    record = json.loads(finished[1])
    record["stages"]["../elsewhere"] = record["stages"]["eval_mbt"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"'\.\./elsewhere' can not be the name of a stage"):
        runs.load(tmp_path)


@fuzz
@given(st.data())
def test_pictures_of_a_run(tmp_path, data):
    sheet = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    sheet.info[pictures.CELLS] = json.dumps({"titles": ["truth"], "rows": 1, "size": [8, 8]})
    pictures.save(sheet, tmp_path / "predictions.png")
    whole = (tmp_path / "predictions.png").read_bytes()
    (tmp_path / "predictions.png").write_bytes(data.draw(mutilated([whole])))
    with bounded(), contextlib.suppress(ConfigError):
        gallery.read_cells(tmp_path / "predictions.png")


@settings(fuzz, max_examples=150)
@given(st.data())
def test_configurations_of_another(tmp_path, data):
    config = json.dumps(plain(base.get_config()))
    (tmp_path / "config.json").write_text(data.draw(changed(config)))
    with contextlib.suppress(ConfigError):
        stages(networks.recorded(tmp_path, defaults=base.get_config))


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
        networks.recorded(tmp_path, defaults=base.get_config)


@fuzz
@given(mutilated([b'{"a": [1, "00"], "default/d/x": [3, "ff"]}', *JSONS]))
def test_seals(tmp_path, data):
    folder = tmp_path / "4"
    folder.mkdir(exist_ok=True)
    (folder / "a").write_bytes(b"x")
    (folder / checkpoint.MANIFEST).write_bytes(data)
    assert isinstance(checkpoint.problem(folder), str)


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
