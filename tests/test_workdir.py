"""Records of a run, and evaluations of several protocols side by side."""

import os

import pytest

from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel, workdir
from rtda_jax.run.options import flat
from rtda_jax.run.workdir import (
    find_result,
    lock,
    other_results,
    read_json,
    save_result,
    write_json,
)


def test_json_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": [1, None, "é"]})
    assert read_json(tmp_path / "a" / "b.json") == {"x": [1, None, "é"]}


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"[" * 100_000, b"3"])
def test_other_files_are_refused_by_name(tmp_path, data):
    (tmp_path / "b.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"b\.json: "):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is not a regular file"),
        (os.mkdir, "is a folder, not a file"),
        (lambda path: path.write_bytes(b" " * (2**24 + 1)), "has 16,777,217 bytes"),
    ],
)
def test_a_record_is_a_file_of_some_size(make, words, tmp_path):
    make(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=rf"config\.json: {words}"):
        read_json(tmp_path / "config.json")


def test_a_job_with_more_results_than_a_record_has_bytes_continues(tmp_path):
    long = 14 * f"{250 * 'x'}/"
    results = ["a.png", *(f"{n}/{long}b.png" for n in range(5000))]
    for _ in range(2):
        with workdir.claimed(tmp_path, record="predict.json", results=results) as begin:
            begin()
            (tmp_path / "a.png").touch()
    assert (tmp_path / "predict.json").stat().st_size > 2**24


def test_a_job_that_is_refused_leaves_the_earlier_record(tmp_path):
    def claim():
        return workdir.claimed(tmp_path, record="model.json", results=["a.bin"])

    with claim() as begin:
        write_json(tmp_path / "model.json", {"file": "a.bin", "results": begin()})
    before = (tmp_path / "model.json").read_bytes()
    with pytest.raises(ConfigError, match="refused"), claim():
        raise ConfigError("refused")
    assert (tmp_path / "model.json").read_bytes() == before
    with claim() as begin:
        begin()
    assert read_json(tmp_path / "model.json")["finished"] is False


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "is_main", lambda: False)
    write_json(tmp_path / "b.json", {})
    with lock(tmp_path / "run"):
        assert list(tmp_path.iterdir()) == []


def test_flat_names_every_leaf():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }


def identity(mode, step=4):
    return {"protocol": {"mode": mode, "window": (2, 3)}, "models": ["train"], "step": step}


def test_results_of_several_protocols_lie_side_by_side(tmp_path):
    assert find_result(tmp_path, identity("whole")) is None
    assert other_results(tmp_path, identity("whole")) == []
    whole = {**identity("whole"), "miou": 0.4}
    slide = {**identity("slide"), "miou": 0.5}
    more = {**identity("slide", step=8), "miou": 0.6}
    for record, known in ((whole, identity("whole")), (slide, identity("slide"))):
        save_result(tmp_path, record, known)
        assert find_result(tmp_path, known)["miou"] == record["miou"]
    save_result(tmp_path, more, identity("slide", step=8))
    assert find_result(tmp_path, identity("whole"))["miou"] == 0.4
    assert read_json(tmp_path / workdir.RESULT)["miou"] == 0.6
    others = other_results(tmp_path, identity("slide", step=8))
    assert sorted(record["miou"] for record in others) == [0.4, 0.5]


def test_a_result_that_is_measured_again_replaces_the_earlier_one_alone(tmp_path):
    for mode, miou in (("whole", 0.4), ("slide", 0.5), ("whole", 0.45), ("whole", 0.46)):
        save_result(tmp_path, {**identity(mode), "miou": miou}, identity(mode))
    assert find_result(tmp_path, identity("whole"))["miou"] == 0.46
    assert [r["miou"] for r in other_results(tmp_path, identity("whole"))] == [0.5]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    message = "file/out cannot be made: .*; choose another --output"
    opened = workdir.claimed(tmp_path / "file" / "out", record="predict.json", results=[])
    with pytest.raises(ConfigError, match=message), opened:
        pass
