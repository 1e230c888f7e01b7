import os
import pathlib
import re
import subprocess
import sys

import pytest

from rtda_jax.run.command import config_names

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation as a site; a broken link or reference fails its build."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_of_docs_is_on_the_site(site):
    start = (site / "index.html").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert (site / path.stem / "index.html").exists()
        assert f'href="{path.stem}/"' in start, f"mkdocs.yml does not name {path.name}"
    assert "Quick start" in start and 'src="streets.png"' in start


def test_every_configuration_is_among_the_methods(site):
    methods = (site / "methods" / "index.html").read_text()
    titles = re.findall(r"<h2[^>]*><code>(\w+)</code>", methods)
    assert titles == config_names()


def test_the_reference_has_the_functions_that_users_call(site):
    reference = (site / "reference" / "index.html").read_text()
    for name in (
        "adapt.step.make_train_step",
        "adapt.build.build",
        "evaluate.evaluate",
        "fda.transfer",
        "losses.cross_entropy",
        "deploy.publish.run",
    ):
        assert f'id="rtda_jax.{name}"' in reference


def test_nothing_is_loaded_from_elsewhere_but_the_diagrams(site):
    for name in ("index", "architecture/index", "reference/index"):
        page = (site / f"{name}.html").read_text()
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page)
        assert loaded == []
