"""The pickle machine: what it builds, what it leaves out, and what it refuses within its budget."""

import argparse
import collections
import contextlib
import io
import os
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from mutilate import bounded, fuzz, mutilated

from rtda_jax.weights import unpickle
from rtda_jax.weights.unpickle import Opaque

STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02NtQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor\n(" + STORAGE + b"K\x00K\x02\x85K\x01\x85tR"


def load(data):
    tree, length = unpickle.load(data + b"rest", {})
    assert length == len(data)
    return tree


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_objects_are_what_they_were(protocol):
    tree = {
        "epoch": 3,
        "names": ["road", "Straße"],
        "nested": {"pair": (1.5, None), "single": (True,), "triple": (1, 2, 3), "none": ()},
        "ordered": collections.OrderedDict(a=-1, b=2**70),
    }
    assert load(pickle.dumps(tree, protocol)) == tree


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_other_classes_are_names(protocol):
    tree = {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.41),
        "path": pathlib.PurePosixPath("/x"),
        "set": {1, 2},
        "frozen": frozenset({1}),
        "deque": collections.deque([1, 2]),
        "array": np.zeros(3),
        "after": "them",
    }
    loaded = load(pickle.dumps(tree, protocol))
    assert loaded.keys() == tree.keys()
    assert loaded["args"] == Opaque("argparse.Namespace")
    assert all(isinstance(v, Opaque) for k, v in loaded.items() if k != "after")
    assert loaded["after"] == "them"


def test_default_dicts_are_dicts():
    tree = {"history": collections.defaultdict(list, {"a": [1]})}
    assert load(pickle.dumps(tree, 2)) == {"history": {"a": [1]}}


def test_keys_are_text():
    tree = {1: "a", 0.5: "b", None: "c", False: "d", b"e": "e", (1, 2): "left out"}
    text = {"1": "a", "0.5": "b", "None": "c", "False": "d", "e": "e"}
    assert load(pickle.dumps(tree, 3)) == text


def test_python_2_makes_dicts_of_pairs():
    tree = load(b"\x80\x02ccollections\nOrderedDict\n](](U\x01w" + TENSOR + b"ee\x85R.")
    tensor = tree["w"]
    assert (tensor.shape, tensor.strides, tensor.offset) == ((2,), (1,), 0)
    assert (tensor.storage.key, tensor.storage.size) == ("0", 2)


class Runs:
    """Leaves `it_ran` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch it_ran",)


class Evaluates:
    def __reduce__(self):
        return eval, ("open('it_ran', 'w')",)


class Hidden:
    """Reaches the function by a name that nothing knows."""

    def __reduce__(self):
        return getattr, (os, "system")


@pytest.mark.parametrize("attack", [Runs(), Evaluates(), {"state": [Runs()]}])
def test_what_only_attacks_name_is_refused_and_not_run(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4):
        with pytest.raises(
            ValueError, match=r"would run (posix\.system|__builtin__\.eval|builtins\.eval) if"
        ):
            unpickle.load(pickle.dumps(attack, protocol), {})
    assert os.listdir(tmp_path) == []


def test_no_name_is_imported_or_called(tmp_path, monkeypatch):
    """An unknown function with arguments is a name like any other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack.py").write_text("open('imported', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    data = b"\x80\x02cattack\nrun\n(U\x05touchtR."
    assert load(data) == Opaque("attack.run")
    assert load(b"\x80\x02cbuiltins\nprint\n(U\x05touchtR.") == Opaque("builtins.print")
    assert os.listdir(tmp_path) == ["attack.py"]


def nested(empty, begin, end):
    """Opcodes that make x = [x, x] sixty times over, memoised as 60: two to the sixty objects."""
    levels = (
        begin + b"h" + bytes([i]) + b"h" + bytes([i]) + end + b"q" + bytes([i + 1])
        for i in range(60)
    )
    return b"\x80\x02" + empty + b"q\x00" + b"".join(levels)


LISTS, TUPLES = nested(b"]", b"](", b"e"), nested(b")", b"(", b"t")
STORAGE_OF_SEVEN = b"\x80\x02" + STORAGE.replace(b"NtQ", b"NNNtQ") + b"."
REFUSED = {
    "a memo of nothing": (b"\x80\x02q\x00.", "damaged"),
    "an unknown memo": (b"\x80\x02h\x07.", "damaged"),
    "no end": (b"\x80\x02}", "exhausted before seeing STOP"),
    "an empty pickle": (b"", "exhausted"),
    "an extension": (b"\x80\x02\x82\x01.", "instruction EXT1, as no checkpoint has"),
    "a name as an instruction": (b"\x80\x02I5\n.", "instruction INT, as no checkpoint has"),
    "items of a tuple": (b"\x80\x02)U\x01aNs.", "items of something else than a dict"),
    "a longer tuple": (b"\x80\x02)a.", "damaged"),
    "nothing called": (b"\x80\x02U\x01a)R.", "calls something else than a function"),
    "arguments of a list": (b"\x80\x02ctorch._utils\n_rebuild_tensor\n]R.", "are not a tuple"),
    "too few arguments": (b"\x80\x02ctorch._utils\n_rebuild_tensor\n)R.", "do not fit"),
    "no storage": (b"\x80\x02ctorch._utils\n_rebuild_tensor\n(NK\x00))tR.", "has no storage"),
    "a negative stride": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n("
        + STORAGE
        + b"K\x00K\x02\x85\x8a\x01\xff\x85tR.",
        "not of whole numbers",
    ),
    "a storage of nothing": (b"\x80\x02N\x51.", "not a storage"),
    "a storage of seven": (STORAGE_OF_SEVEN, "not a storage"),
    "too much work": (b"\x80\x02(" + b"N" * 2**20 + b"t.", "more than 1048576 steps"),
    "a storage of tuples": (TUPLES + b"(U\x01ah\x3cK\x00NK\x01tQ.", "not a storage"),
    "a dict of numbers": (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "else than pairs"),
    "a long name": (b"\x80\x02}X\x00\x10\x00\x00" + b"a" * 4096 + b"Ns.", "name is longer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    data, sentence = REFUSED[name]
    with bounded(), pytest.raises(ValueError, match=sentence):
        unpickle.load(data, {})


def test_what_shares_its_parts_is_not_walked():
    with bounded():
        assert list(load(LISTS + b"}U\x01ah\x3cs.")) == ["a"]
        assert load(TUPLES + b"}h\x3cNs.") == {}


def test_a_tensor_of_an_unknown_storage_is_opaque():
    data = TENSOR.replace(b"FloatStorage", b"QInt8Storage")
    assert load(b"\x80\x02" + data + b".") == Opaque("torch.QInt8Storage")


def test_names_of_attacks_are_safe_to_print():
    with pytest.raises(ValueError, match=r"run os.sys\\x1b\[2J if"):
        unpickle.load(b"\x80\x02cos\nsys\x1b[2J\n.", {})


SEEDS = [
    pickle.dumps({"a": [1, (2.5, None)], "b": collections.OrderedDict(c=Opaque("x"))}, protocol)
    for protocol in (2, 4)
] + [b"\x80\x02}U\x01w" + TENSOR + b"s."]


@fuzz
@given(mutilated(SEEDS))
def test_mutilated_pickles_are_read_or_refused(data):
    with bounded(), contextlib.suppress(ValueError):
        unpickle.load(data, {})


def test_a_stream_of_pickles_is_read_one_by_one():
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 2))
    first, length = unpickle.load(stream.getvalue(), {})
    assert (first, unpickle.load(stream.getvalue()[length:], {})[0]) == (1, [2])
