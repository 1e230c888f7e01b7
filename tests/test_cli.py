"""The command line's answers to bad input: a sentence, an exit code, nothing lost."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import folder_fields, write_folders
from PIL import Image

from rtda_jax.cli import JOBS, main
from rtda_jax.errors import ConfigError
from rtda_jax.run import files
from rtda_jax.run.command import define_flags, parse

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/nope.py"], "no configuration file configs/nope.py"),
        (
            [f"--config={ROOT}/configs/fda.py:nope"],
            "unknown benchmark 'nope'; known: cityscapes_to",
        ),
        (
            [f"--config={ROOT}/configs/fda.py", "--config.optim.g_lrr=1"],
            "the configuration has no field 'g_lrr'. Did you mean \"g_lr\"",
        ),
        ([f"--config={ROOT}/configs/fda.py", "--config.steps=abc"], "--config.steps=abc"),
        ([f"--config={ROOT}/configs/fda.py", "--job=fly"], "unknown job 'fly'; known: audit"),
        ([f"--config={ROOT}/configs/ssl.py", "--seeds=0"], "--seeds must be 1 or more, got 0"),
        (
            [f"--config={ROOT}/configs/ssl.py", "--job=summary", "--seeds=2"],
            "--seeds goes with --job=run or evaluate, not summary",
        ),
    ],
)
def test_a_wrong_command_line_is_a_sentence(arguments, message):
    code, said = command(*arguments)
    assert code == 2
    assert message in said
    assert "Traceback" not in said


@pytest.fixture
def root(tmp_path):
    write_folders(tmp_path)
    return tmp_path


def broken_image(root):
    path = root / "source" / "images" / "001.png"
    path.write_bytes(path.read_bytes()[:200])
    return "001.png"


def other_size(root):
    path = root / "source" / "labels" / "002.png"
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    return "002.png"


def strange_id(root):
    path = root / "source" / "labels" / "000.png"
    Image.fromarray(np.full((40, 80), 99, np.uint8)).save(path)
    return "000.png"


def no_folder(root):
    (root / "source").rename(root / "elsewhere")
    return "streets"


@pytest.mark.parametrize("damage", [broken_image, other_size, strange_id, no_folder])
def test_broken_data_is_named(root, damage):
    named = damage(root)
    fields = {**folder_fields(root), "steps": 4, "batch_size": 4}
    code, said = command(
        f"--config={ROOT}/configs/source_only.py:folders",
        "--config.benchmark.crop=(32,64)",
        "--config.benchmark.size=(32,64)",
        f"--workdir={root / 'run'}",
        *[f"--config.{name}={value}" for name, value in fields.items()],
    )
    assert code == 4, said
    assert "DataError" in said
    assert named in said
    assert "Traceback" not in said


def test_no_two_jobs_check_data_into_one_workdir(tmp_path):
    with files.lock(tmp_path / "data"):
        code, said = command(
            f"--config={ROOT}/configs/fda.py", "--job=check_data", f"--workdir={tmp_path}"
        )
    assert code == 2
    assert "data is in use by another process" in said


def test_words_name_the_job_and_its_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    line = ["predict", "photo.jpg", "--weights", "mine", "--config", "fda:beta=0.05"]
    job, parsed = parse([*line, "--config.steps", "3"], JOBS)
    assert job is JOBS["predict"]
    assert parsed.flags.input == "photo.jpg"
    assert parsed.workdir == pathlib.Path("runs/mine")
    assert (parsed.config.fda_beta, parsed.config.steps) == (0.05, 3)
    assert parsed.given and parsed.overrides == {"steps": 3}
    assert parse(["--job=predict", "--input=photo.jpg"], JOBS)[0] is job


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "a.jpg", "b.jpg"], "unexpected arguments: a.jpg b.jpg"),
        (["--weights=mine"], "--weights=mine: no such folder"),
        (["--config=fdb"], "unknown configuration 'fdb'; known: adabn"),
        (["--config=x/fda.py"], "--config=fda is the one that comes with rtda_jax"),
    ],
)
def test_what_words_cannot_mean_is_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(words, JOBS)


def test_the_help_names_every_job_and_flag_in_100_columns(capsys):
    assert main([]) == 0
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in JOBS)
    assert all(f"\n  --{name} " in text for name in define_flags())
    assert max(map(len, text.splitlines())) <= 100
