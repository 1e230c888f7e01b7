"""Parts of data sets: made by isolated workers, whole or not at all, read without trust."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import data_files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutilate import bounded, fuzz, mutilated

from rtda_jax.data import DataError, parts
from rtda_jax.data.parts import Example


def made_in_a_worker(argument):
    """A maker that a worker process can import; names its process."""
    if argument == "bad":
        raise DataError("some/file.png: no good")
    yield Example(argument, str(os.getpid()).encode(), b"")


def test_worker_processes_make_parts_and_report_errors(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("rtda_jax.run.log._SHORT_SECONDS", 0)
    names = [f"{i}" for i in range(4)]
    parts.make(tmp_path, made_in_a_worker, {n: n for n in names}, total=4, what="t", workers=2)
    examples = list(parts.read_all(tmp_path, names))
    assert [example.key for example in examples] == names
    assert str(os.getpid()).encode() not in {example.image for example in examples}
    assert len({example.image for example in examples}) == 2
    assert "t: 4/4" in capfd.readouterr().err
    arguments = {"4": "4", "5": "bad", "6": "6"}
    with pytest.raises(DataError, match=r"some/file\.png: no good"):
        parts.make(tmp_path, made_in_a_worker, arguments, total=3, what="t", workers=2)
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "5").exists()


def test_a_worker_that_dies_is_an_error(tmp_path):
    arguments = {"a": 1, "b": 2}
    with pytest.raises(DataError, match=r"(?s)a worker process failed.*TypeError"):
        parts.make(tmp_path, pathlib.Path, arguments, total=2, what="t", workers=2)


def test_a_full_disk_is_no_error_of_the_data_and_the_part_is_named(tmp_path):
    arguments = dict.fromkeys("01", "long" * 1000)
    with data_files.full_disk(2000), pytest.raises(OSError, match="File too large") as raised:
        parts.make(tmp_path, made_in_a_worker, arguments, total=2, what="t", workers=2)
    assert pathlib.Path(raised.value.filename).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_makes_the_missing_parts_only(tmp_path):
    parts.write(tmp_path / "1", [Example("kept", b"", b"")])
    names = {n: n for n in "012"}
    parts.make(tmp_path, made_in_a_worker, names, total=3, what="t", workers=2)
    assert [e.key for e in parts.read_all(tmp_path, names)] == ["0", "kept", "2"]


def test_workers_do_not_run_what_lies_in_the_current_folder(tmp_path):
    """A `json.py` there would run in a worker that is started with `python -m`."""
    (tmp_path / "here").mkdir()
    for module in ("json", "pickle", "numpy", "rtda_jax"):
        (tmp_path / "here" / f"{module}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write({module!r})"
        )
    code = (
        "import pathlib, sys; from rtda_jax.data import parts; import test_parts; "
        f"parts.make(pathlib.Path({str(tmp_path / 'parts')!r}), test_parts.made_in_a_worker, "
        "{n: n for n in '01'}, total=2, what='t', workers=2)"
    )
    roots = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["0", "1"]
    assert not (tmp_path / "ran").exists()


KEYS = st.text(st.characters(exclude_categories=()), max_size=6)


@fuzz
@given(st.lists(st.builds(Example, KEYS, st.binary(max_size=9), st.binary(max_size=9))))
def test_a_part_is_read_back_exactly(tmp_path, examples):
    assert parts.write(tmp_path / "part", examples) == len(examples)
    assert list(parts.read(tmp_path / "part")) == examples


@fuzz
@given(mutilated([b'[["a", 3, 2]]\nabcde', b"[]\n", b'[["a", 1, 0], ["b", 0, 1]]\nxy']))
def test_a_damaged_part_is_refused_by_name_or_holds_what_it_says(tmp_path, data):
    path = tmp_path / "part"
    path.write_bytes(data)
    try:
        with bounded():
            examples = list(parts.read(path))
    except DataError as error:
        assert "part: not a part of a data set" in str(error)
    else:
        assert sum(len(e.image) + len(e.label) for e in examples) < len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96\xff\xff\xff\xbf\0\0",  # a pickle that claims 3 GiB
        b'[["a", 3221225472, 0]]\n',
        b'[["a", -1, 6]]\nabcde',
        b'[["a", 2, 1.0]]\nabc',
        b"[" * 100_000 + b"\n",
        b"",
    ],
)
def test_claims_about_sizes_cost_no_memory(tmp_path, data):
    (tmp_path / "part").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with bounded(), pytest.raises(DataError, match="not a part of a data set"):
        list(parts.read(tmp_path / "part"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_part_holds_no_code(tmp_path):
    parts.write(tmp_path / "part", [Example("a", b"12", b"3")])
    header, _, rest = (tmp_path / "part").read_bytes().partition(b"\n")
    assert json.loads(header) == [["a", 2, 1]] and rest == b"123"
