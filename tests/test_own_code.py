"""A run that a configuration file of the user's own made records the code and the arguments."""

import sys
import textwrap

import pytest
from bindings import begin, chain, check_bound, claim, config
from run_records import edited, series, write_run

from rtda_jax import train
from rtda_jax.cli import JOBS
from rtda_jax.deploy import networks, publish
from rtda_jax.errors import ConfigError
from rtda_jax.run.command import Command, Job, load_config, parse
from rtda_jax.run.options import explained, plain
from rtda_jax.run.workdir import write_json
from rtda_jax.tools.environment import configs_folder

MINE = '''
"""A configuration."""

from configs import arguments, own_parts


def make(benchmark, *, factor: float = 1.0):
    config = own_parts.base.make(benchmark)
    config.objective.seg = factor
    return config


get_config = arguments.parsed(make)
'''
PARTS = """
from configs import base

SIZE = 3
"""


def code(folder, mine=MINE, *, argument="", **parts):
    """The recorded code of a configuration file that imports from its folder."""
    for module in ("own_parts", "unused", "own_package", "own_package.deep"):
        sys.modules.pop(f"configs.{module}", None)
    (folder / "mine.py").write_text(textwrap.dedent(mine))
    for name, text in {"own_parts": PARTS, "unused": "", **parts}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return load_config(f"{folder}/mine.py{argument}").code


def test_the_file_its_argument_and_a_hash_are_recorded(tmp_path):
    name, digest = code(tmp_path).split(" ")
    assert name == "mine.py" and len(digest) == 8
    assert code(tmp_path, argument=":factor=2") == f"mine.py:factor=2 {digest}"
    assert code(tmp_path, argument=":streets,factor=2") == f"mine.py:streets,factor=2 {digest}"


@pytest.mark.parametrize(
    ("mine", "parts", "same"),
    [
        (MINE, {}, True),
        (MINE.replace("A configuration", "Other words"), {}, True),
        (
            MINE.replace("factor: float = 1.0):", "factor: float = 1.0):  # which\n    'Doc.'\n"),
            {},
            True,
        ),
        (MINE.replace("factor\n", "(\n        factor)\n"), {}, True),
        (MINE, {"unused": "SIZE = 4"}, True),
        (MINE.replace("= factor", "= 2 * factor"), {}, False),
        (MINE, {"own_parts": PARTS.replace("3", "4")}, False),
        (MINE, {"own_parts": PARTS.replace("import base", "import base, unused")}, False),
        (MINE.replace("):", "):\n    from configs import unused"), {}, False),
    ],
)
def test_code_is_other_code_if_more_than_its_words_changed(tmp_path, mine, parts, same):
    assert (code(tmp_path, mine, **parts) == code(tmp_path)) is same


def test_modules_in_a_package_of_the_folder_count(tmp_path):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .deep import SIZE\n")
    mine, codes = "import configs.own_package as _\n" + MINE, set()
    for size in (3, 4, 4):
        (package / "deep.py").write_text(f"SIZE = {size}\n")
        (package / "other.py").write_text("")
        codes.add(code(tmp_path, mine))
        for cache in package.rglob("*.pyc"):
            cache.unlink()
    assert len(codes) == 2


def test_configurations_that_are_shipped_record_nothing():
    assert load_config("fda").code == ""
    assert load_config(str(configs_folder() / "fda.py")).code == ""


def test_a_file_that_a_shipped_configuration_hides_is_named(tmp_path, capsys):
    code(tmp_path)
    assert "not read" not in capsys.readouterr().out
    code(tmp_path, base="raise RuntimeError")
    assert f"not read in {tmp_path}: base.py; " in capsys.readouterr().out
    # A configuration may have the name of the shipped one on which it builds.
    (tmp_path / "base.py").unlink()
    (tmp_path / "fda.py").write_text("from configs.fda import get_config\n")
    load_config(f"{tmp_path}/fda.py")
    assert "not read" not in capsys.readouterr().out


@pytest.mark.parametrize("field", ["code", "stage.train.code"])
def test_no_flag_sets_it(field):
    with pytest.raises(ConfigError, match="no flag sets it"):
        parse(["--config=fda", f"--config.{field}=x"], JOBS)


def test_a_stage_that_began_with_other_code_is_noted(tmp_path):
    names = ("train", "labels", "again")
    claim(tmp_path, chain(code="a.py:x=1 11"))
    begin(tmp_path, *names)
    assert claim(tmp_path, chain(code="a.py:x=1 11")) == []
    words = (
        "[train, again] began with other code or arguments of a configuration of your own: "
        "a.py:x=1 11 there, a.py:x=2 22 now; what it computes may differ"
    )
    assert check_bound(tmp_path, chain(code="a.py:x=2 22")) == [words]
    assert claim(tmp_path, chain(code="a.py:x=2 22")) == [words]
    # What it began with stays what it began with.
    assert claim(tmp_path, chain(code="a.py:x=1 11")) == []
    assert "a.py:x=1 11 there, none now" in claim(tmp_path, chain(code=""))[0]


def test_runs_from_before_the_field_continue_without_a_word(tmp_path):
    older = config()
    del older["code"]
    claim(tmp_path, older)
    begin(tmp_path, "train")
    assert claim(tmp_path, config(code="a.py 11")) == []


def test_a_folder_of_the_library_continues(tmp_path):
    begun = load_config("source_only")
    train._bind(tmp_path, begun)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    begun.code = "a.py 11"
    train._bind(tmp_path, begun)
    begun.seed = 1
    with pytest.raises(ConfigError, match="began with seed=0"):
        train._bind(tmp_path, begun)


def test_jobs_that_read_a_run_note_other_code(tmp_path, capsys):
    made = load_config("source_only")
    made.code = "a.py 11"
    claim(tmp_path, plain(made))
    begin(tmp_path, "train")
    networks.check(made, tmp_path)
    assert "began" not in capsys.readouterr().out
    made.code = "a.py 22"
    networks.check(made, tmp_path)
    assert "[train] began with other code" in capsys.readouterr().out


def test_a_published_record_has_no_folders_and_is_read_with_other_code(tmp_path, capsys):
    made = load_config("source_only")
    made.code = "a.py:folders,images=/home/ann/x,labels=~/ann/y:z=/q/w 11"
    record = publish.without_paths(plain(made))
    assert record["code"] == "a.py:folders,images=x,labels=y:z=w 11"
    write_json(tmp_path / "config.json", record)
    score = {"stage": "evaluate", "networks": {"train": {"file": "f", "sha256": ""}}}
    write_json(tmp_path / "published.json", score)
    networks.check(made, tmp_path)
    assert capsys.readouterr().out == ""
    made.code = "b.py 22"
    networks.check(made, tmp_path)
    assert "z=w 11 there, b.py 22 now" in capsys.readouterr().out
    assert publish.without_paths({"iou": {"code": 0.5}}) == {"iou": {"code": 0.5}}


def test_runs_of_other_code_are_other_rows(tmp_path):
    def made_by(text):
        def change(results):
            results["config"]["code"] = text

        return change

    folders = [write_run(tmp_path / "w" / f"a-s{s}", "source_only", s, skill=0.5) for s in range(3)]
    same, other = tmp_path / "same", tmp_path / "other"
    of_one = [edited(f, same / f.name, made_by("a.py 11")) for f in folders]
    trained, boards = series(of_one)
    assert len(trained) == len(boards[0].rows) == 1
    texts = ("a.py 11", "a.py 22", "a.py:x=1 11")
    of_three = [
        edited(f, other / f.name, made_by(text)) for f, text in zip(folders, texts, strict=True)
    ]
    trained, boards = series(of_three)
    assert len(trained) == len(boards[0].rows) == 3


@pytest.mark.parametrize("seeds", [False, True])
@pytest.mark.parametrize(
    ("words", "given", "explained"),
    [
        ("stage a: unknown kind 'average'; known: train", False, True),
        ("unknown term of the objective 'mine'; known: seg", False, True),
        ("unknown term of the objective 'mine'; known: seg", True, False),
        ("unknown view 'ouverlay'; known: overlay", False, False),
        ("unknown model.name 'mine'; give --config X", False, False),
        ("the objective has no term of non-zero weight", False, False),
    ],
)
def test_an_unknown_name_in_a_record_asks_for_the_file(tmp_path, words, given, explained, seeds):
    record = {"stage": {"a": {"kind": "average"}}, "objective": {"mine": 1.0}}
    folder = tmp_path / "seed0" if seeds else tmp_path
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", record | {"code": "my own.py:x=1 0123"})

    def refuse(_):
        raise ConfigError(words)

    hint = (
        "; if a configuration file of your own defines it, give --config my own.py:x=1 and the "
        "flags that the run began with"
    )
    with pytest.raises(ConfigError) as raised:
        Job(refuse, "", "").start(Command(None, given, {}, tmp_path, None))
    assert str(raised.value) == words + hint * explained


@pytest.mark.parametrize("text", [None, "{", "[]", '["average"]', "\udcff"])
def test_an_error_beside_a_damaged_record_stays_as_it_is(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    error = ConfigError("unknown kind 'average'")
    assert explained(error, tmp_path) is error
