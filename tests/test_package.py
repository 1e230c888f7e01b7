"""The wheel and the sdist: built, checked, and used in an environment outside the clone."""

import os
import pathlib
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest
from PIL import Image

from rtda_jax.run.command import CONFIG_HELPERS, config_names

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
SHORT = (
    *("--config.steps=2", "--config.batch_size=2", "--config.benchmark.crop=(32,64)"),
    "--config.stages=('train','evaluate')",
)


def call(*words, cwd, code=0):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def test_the_metadata_and_the_contents_are_complete(built):
    (wheel,) = built.glob("*.whl")
    call(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"rtda_jax/configs/{name}.py" for name in (*config_names(), *CONFIG_HELPERS)}
    trained = "rtda_jax/deploy/trained/streets/published.json"
    data = {"rtda_jax/py.typed", "rtda_jax/report/page.css", trained}
    assert configs | data <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"rtda_jax"}


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installed_package_trains_evaluates_and_predicts(built, tmp_path, kind):
    """Dependencies are those of this environment, so that nothing is downloaded."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    theirs = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(theirs))
    (package,) = built.glob(kind)
    install = ("-m", "pip", "install", "--no-deps", "--no-build-isolation", "--ignore-installed")
    call(python, *install, package, cwd=tmp_path)
    where = call(python, "-c", "import rtda_jax; print(rtda_jax.__file__)", cwd=tmp_path)
    assert pathlib.Path(where.strip()).is_relative_to(packages)
    program = tmp_path / "venv" / "bin" / "rtda-jax"
    (tmp_path / "mine.py").write_text(
        "from configs import source_only\n\n\ndef get_config(arg=''):\n"
        "    return source_only.get_config(arg)\n"
    )
    assert "predict photo.jpg" in call(python, "-m", "rtda_jax", cwd=tmp_path)
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.png")
    call(program, "predict", "photo.png", "--weights=streets", cwd=tmp_path)
    assert (tmp_path / "runs" / "streets" / "predict" / "overlay" / "photo.png").is_file()
    run = ("--config=mine.py", *SHORT)
    call(program, *run, cwd=tmp_path)
    call(program, "evaluate", *run, cwd=tmp_path)
    call(program, "evaluate", "--workdir=runs/mine", cwd=tmp_path)
    call(program, "predict", "photo.png", "--weights", "mine", "--output=out", cwd=tmp_path)
    assert (tmp_path / "out" / "overlay" / "photo.png").is_file()
    call(program, "benchmark", "--config=fda", cwd=tmp_path, code=2)  # its twins stay in the clone


def test_the_citation_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
