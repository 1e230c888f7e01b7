"""The documents: the diagram is that of the imports, links lead to files, commands are parsed."""

import ast
import importlib.util
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from helpers import SIZE, batch, shrink
from ml_collections import ConfigDict

import rtda_jax.data.labels
from rtda_jax.cli import JOBS
from rtda_jax.data.labels import class_set
from rtda_jax.run import log
from rtda_jax.run.command import parse
from rtda_jax.tools import hub

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="an sdist has the tests and not the documents"
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def architecture():
    path = ROOT / "docs" / "architecture.py"
    spec = importlib.util.spec_from_file_location("architecture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagram_is_that_of_the_imports(architecture):
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert architecture.diagram() in page, "stale: python docs/architecture.py prints the diagram"


def test_implied_arrows_are_left_out_and_needed_ones_are_not(architecture):
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert architecture.reduced(arrows) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not missing, f"{page.name} links to {', '.join(missing)}"


def commands(page):
    """Returns the words of every command of this program in a page, or a configuration's docstring.

    Of a page they are the lines of code blocks. What a shell would expand is left out.
    """
    if page.suffix == ".py":
        lines = ast.get_docstring(ast.parse(page.read_text())) or ""
    else:
        blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks)
    calls = re.findall(r"(?:python main\.py|rtda-jax) (?!--help)(\S.*)", lines.replace("\\\n", " "))
    return [[w for w in shlex.split(call, comments=True) if "$" not in w] for call in calls]


def test_commands_are_found_over_several_lines_and_without_their_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\npip install x && python main.py --config fda \\\n  --config.seed=1   # a comment\n"
        "rtda-jax predict a.jpg\nls\n```\n\n```python\nx = 1\n```\nText: `python main.py run`.\n"
    )
    assert commands(page) == [["--config", "fda", "--config.seed=1"], ["predict", "a.jpg"]]


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted((ROOT / "configs").glob("*.py"))], ids=lambda path: path.name
)
def test_commands_name_jobs_flags_configurations_and_fields_that_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        hub, "find", lambda weights, **_: tmp_path / weights
    )  # that nobody has trained
    for words in commands(page):
        parse(words, JOBS)


def test_classes_of_ones_own_are_defined_as_the_page_shows():
    page = (ROOT / "docs" / "own_data.md").read_text()
    (code,) = re.findall(r"^```python\n(config\.benchmark\.classes = .*?)^```", page, re.M | re.S)
    config = ConfigDict({"benchmark": {"classes": "cityscapes19"}})
    exec(code, {"config": config, "rtda_jax": rtda_jax})
    assert class_set(config.benchmark.classes).names == ("road", "rail")
    (listing,) = re.findall(r"^```json\n(.*?)^```", page, re.M | re.S)
    assert class_set(json.dumps(json.loads(listing))).names[:2] == ("road", "rail")


def test_training_in_python_is_as_the_page_shows(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "architecture.md").read_text()
    (code,) = re.findall(r"^```python\n(import itertools.*?)^```", page, re.M | re.S)
    shrink(monkeypatch)
    monkeypatch.chdir(tmp_path)
    small = f"config.steps = 2; config.benchmark.size = config.benchmark.crop = {SIZE}"
    image = np.zeros((*SIZE, 3), np.uint8)
    scope = {"read_batch": batch, "image": image}
    exec(code.replace("config.steps = 400", small), scope)
    assert (scope["classes"].shape, scope["classes"].dtype) == (SIZE, np.uint8)
    assert log.read(tmp_path / "runs/mine/train" / log.METRICS_FILE)[-1]["step"] == 2


def test_the_readme_shows_a_config_as_it_is():
    readme, config = ((ROOT / name).read_text() for name in ("README.md", "configs/fda_mbt.py"))
    begin = "    base.set_stages("
    stages = config[config.index(begin) :].partition("\n\n")[0]
    assert stages in readme
