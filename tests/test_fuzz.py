"""The files that once broke a reader are read again, and the fuzzer notices what it should."""

import time

import fuzz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import CORPUS, READERS, Reader

from rtda_jax.errors import DataError

FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_of_the_corpus_are_read_or_refused(file, tmp_path):
    reader = READERS[file.parent.name](tmp_path)
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.read_bytes())
    fuzz.attempt(reader.read, path)


@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_called_as_it_is_defined(name, tmp_path):
    reader = READERS[name](tmp_path)
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)

    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    @given(content=reader.files)
    def each(content):
        path.write_bytes(content)
        fuzz.attempt(reader.read, path)

    each()


def test_the_corpus_is_small():
    assert sum(path.stat().st_size for path in FILES) < 100_000


def test_the_corpus_is_of_readers():
    assert {path.parent.name for path in FILES} <= READERS.keys()


# The child of a fork runs the reader alone and never JAX, which another test may have started here.
forks = pytest.mark.filterwarnings(
    "ignore:os.fork:RuntimeWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",  # how the warning of a callback arrives
)


def refuses(path):
    if b"a" in path.read_bytes():
        raise DataError(f"{path}: has an a")


def fails(path):
    if b"a" in path.read_bytes():
        raise KeyError("a")


def is_slow(path):
    end = time.process_time() + 2
    while b"a" in path.read_bytes() and time.process_time() < end:
        pass


def hides_that_it_takes_memory(path):
    try:
        np.ones(2**40, np.uint8)
    except MemoryError as error:
        raise DataError(f"{path}: damaged ({error})") from error


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (fails, KeyError),
        (is_slow, fuzz.TooMuch),
        (hides_that_it_takes_memory, fuzz.TooMuch),
    ],
)
def test_a_failing_file_is_noticed(read, error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"b")
    assert fuzz.attempt(refuses, path) == ""
    path.write_bytes(b"a")
    assert fuzz.attempt(refuses, path) == f"DataError: {path}: has an a"
    with pytest.raises(error):
        fuzz.attempt(read, path, seconds=1, mebibytes=100)


@forks
def test_the_fuzzer_keeps_the_smallest_file_that_fails(tmp_path, monkeypatch):
    reader = Reader("file", st.binary(max_size=30), fails)
    monkeypatch.setitem(READERS, "bad", lambda folder: reader)
    total = fuzz.watch("bad", tmp_path, seconds=1, start=0)
    assert total["tried"] > 10
    assert total["problems"] and "KeyError: 'a'" in total["problems"][0]
    name = total["problems"][0].partition(":")[0]
    assert (tmp_path / name).read_bytes() == b"a"


@forks
@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda path: fuzz.os._exit(9), "ended with 9"),
        (lambda path: np.ones(600 << 20, np.uint8), "TooMuch: "),
    ],
)
def test_the_fuzzer_survives_what_takes_its_process_or_memory(read, words, tmp_path, monkeypatch):
    reader = Reader("file", st.just(b"x"), read)
    monkeypatch.setitem(READERS, "dead", lambda folder: reader)
    total = fuzz.watch("dead", tmp_path, seconds=1, start=0)  # a fork may take a while
    assert words in total["problems"][0]
