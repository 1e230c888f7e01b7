import os
import pickle

import pytest

from rtda_jax.data import DataError, worker


class Runs:
    """Leaves `it_ran` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch it_ran",)


def test_a_part_of_a_data_set_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "part"
    path.write_bytes(pickle.dumps([("key", b"image", Runs())]))
    with pytest.raises(DataError, match="part: not a part of a data set: it would run"):
        worker.read_part(path)
    path.write_bytes(pickle.dumps([("key", b"image", b"label")]))
    assert worker.read_part(path) == [("key", b"image", b"label")]
    assert os.listdir(tmp_path) == ["part"]
