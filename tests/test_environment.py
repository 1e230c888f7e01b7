"""Records name the code that ran, wherever it is installed, and the cores it may use."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import rtda_jax
from rtda_jax.tools import environment


def test_only_cores_that_the_process_may_use_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 5}, raising=False)
    assert environment.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert environment.cores() == 7


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package and its configurations, in a folder that is not a clone."""
    clone = pathlib.Path(rtda_jax.__file__).parents[1]
    for name in ("rtda_jax", "configs"):
        shutil.copytree(clone / name, tmp_path / "lib" / name)
    monkeypatch.setattr(rtda_jax, "__file__", str(tmp_path / "lib" / "rtda_jax" / "__init__.py"))
    return tmp_path / "lib"


def committed(folder):
    words = ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]
    for command in (["init", "-q"], ["add", "."], words):
        subprocess.run(["git", "-C", str(folder), *command], check=True, capture_output=True)
    head = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_is_that_of_the_own_clone(copy):
    assert environment.commit() is None
    head = committed(copy)
    assert environment.commit() == head
    (copy / "rtda_jax" / "fda.py").write_text("")
    assert environment.commit().endswith("+")


def test_commit_of_a_clone_around_the_installed_package_is_not_recorded(copy):
    committed(copy.parent)
    assert environment.commit() is None


def test_digest_covers_configurations_and_is_that_of_the_wheel(copy):
    clone = environment.code_digest()
    (copy / "configs").rename(copy / "rtda_jax" / "configs")
    assert environment.code_digest() == clone
    with (copy / "rtda_jax" / "configs" / "base.py").open("a") as file:
        file.write("# another default\n")
    assert environment.code_digest() != clone


@pytest.mark.parametrize(
    ("called", "words", "command"),
    [
        ("main.py", ["--config", "a b.py"], "python main.py --config 'a b.py'"),
        ("/home/x/.venv/bin/rtda-jax", ["report"], "rtda-jax report"),
        ("/lib/rtda_jax/__main__.py", ["report"], "python -m rtda_jax report"),
        ("main.py", [], "python main.py"),
    ],
)
def test_command_is_what_can_be_typed_again(monkeypatch, called, words, command):
    monkeypatch.setattr(sys, "argv", [called, *words])
    assert environment.command() == command


def test_both_names_of_tensorflow_are_looked_for(monkeypatch):
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: "1")
    assert {"tensorflow", "tensorflow-cpu"} <= set(environment.packages())
