import importlib
import importlib.util
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest
from run_records import contents_of, edited

from rtda_jax import report
from rtda_jax.errors import ConfigError
from rtda_jax.report import runs
from rtda_jax.run import files


def test_deleted_and_regenerated_it_is_equal_in_any_order(workdirs, written, tmp_path):
    before = contents_of(written)
    assert {"report.html", "report.md", "report.json"} < set(before)
    shuffled = random.Random(3).sample(workdirs, len(workdirs))
    report.write(shuffled, tmp_path)
    assert contents_of(tmp_path) == before
    globbed, _ = runs.find([str(pathlib.Path(workdirs[0]).parent / "*")])
    assert globbed == runs.find(shuffled)[0]


def test_the_committed_report_is_what_its_records_give(tmp_path):
    docs = pathlib.Path(__file__).parents[1] / "docs" / "report"
    report.write([str(docs / "runs" / "*")], tmp_path)
    # What other versions of matplotlib and of the encoders may write otherwise is left out.
    drawn = re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+|<svg.*?</svg>", flags=re.DOTALL)
    for name in ("report.md", "report.html", "report.json"):
        texts = [drawn.sub("", (folder / name).read_text()) for folder in (docs, tmp_path)]
        assert texts[0] == texts[1]
    assert sorted(p.name for p in (docs / "figures").iterdir()) == sorted(
        p.name for p in (tmp_path / "figures").iterdir()
    )
    # What drawings say does not depend on their geometry.
    says = [
        re.findall("<title>(.*?)</title>", (folder / "report.html").read_text())
        for folder in (docs, tmp_path)
    ]
    assert says[0] == says[1]
    assert len(says[0]) > 1000


def test_only_what_an_earlier_report_wrote_is_replaced_or_removed(undrawn, workdirs, tmp_path):
    out = tmp_path / "paper"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "thesis.svg").write_text("mine")
    (out / "notes.md").write_text("mine")
    report.write(workdirs[:1], out)
    earlier = contents_of(out)
    assert "figures/gallery-source-only.png" in earlier
    report.write([workdirs[3]], out)
    now = contents_of(out)
    assert "figures/gallery-fda-mbt-eval-mbt.png" in now
    assert "figures/gallery-source-only.png" not in now
    assert now["report.md"] != earlier["report.md"]
    assert (now["figures/thesis.svg"], now["notes.md"]) == (b"mine", b"mine")


def test_two_reports_do_not_write_into_one_folder(undrawn, workdirs, tmp_path):
    out = tmp_path / "paper"
    report.write(workdirs[:1], out)
    earlier = contents_of(out)
    with files.lock(out), pytest.raises(ConfigError, match="paper is in use by another process"):
        report.write(workdirs[1:2], out)
    assert contents_of(out) == earlier
    report.write(workdirs[1:2], out)
    assert contents_of(out)["report.md"] != earlier["report.md"]


@pytest.mark.parametrize(
    "name", ["report.md", "report.html", "report.json", "figures/curve-loss.svg"]
)
def test_a_file_of_the_users_own_is_not_overwritten(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} is not an earlier report's"):
        report._replace(
            tmp_path, dict.fromkeys(("figures/curve-loss.svg", "report.html", "report.md"), b"new")
        )
    assert contents_of(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    "listed", ["../mine.svg", "/etc/passwd", "figures/../mine.svg", "mine.svg", "figures/link.svg"]
)
def test_the_list_of_an_earlier_report_reaches_nothing_else(tmp_path, listed):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    for path in (tmp_path / "mine.svg", out / "mine.svg"):
        path.write_text("mine")
    (out / "figures" / "link.svg").symlink_to(tmp_path / "mine.svg")
    (out / "figures" / "old.svg").write_text("old")
    (out / "report.json").write_text(json.dumps({"files": [listed, "figures/old.svg"]}))
    report._replace(out, {"figures/new.svg": b"new"})
    assert not (out / "figures" / "old.svg").exists()
    for path in (tmp_path / "mine.svg", out / "mine.svg", out / "figures" / "link.svg"):
        assert path.read_text() == "mine"


def test_a_folder_of_figures_that_lies_elsewhere_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").symlink_to(tmp_path / "photos")
    (tmp_path / "out" / "report.json").write_text(json.dumps({"files": ["figures/a.png"]}))
    with pytest.raises(ConfigError, match="figures is a link to elsewhere"):
        report._replace(tmp_path / "out", {"report.md": b"new"})
    assert (tmp_path / "photos" / "a.png").read_text() == "mine"


def test_an_interrupted_report_can_be_written_again(tmp_path, monkeypatch):
    write, parts = files.write_bytes, {"report.md": b"1", "figures/a.svg": b"2"}
    report._replace(tmp_path, {"figures/b.svg": b"0"})

    def full(path, data):
        if path.name == "report.md":
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left .*report\.md"):
        report._replace(tmp_path, parts)
    monkeypatch.setattr(files, "write_bytes", write)
    report._replace(tmp_path, parts)
    assert contents_of(tmp_path).keys() == {*parts, "report.json"}


def test_a_failed_report_leaves_the_earlier_one(undrawn, workdirs, tmp_path):
    report.write(workdirs[:1], tmp_path / "out")
    before = contents_of(tmp_path / "out")
    broken = edited(workdirs[0], tmp_path / "run", lambda r: r.pop("seed"))
    with pytest.raises(ConfigError, match="no field 'seed'"):
        report.write([broken], tmp_path / "out")
    assert contents_of(tmp_path / "out") == before


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_is_a_sentence(workdirs, tmp_path, monkeypatch, library):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == library else find(n))
    with pytest.raises(ConfigError, match=rf"needs {library}: pip install 'rtda_jax\[report\]'"):
        report.write(workdirs[:1], tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "code", "words"), [(["WORKDIR"], 0, "report.html"), ([], 2, "runs")]
)
def test_the_job_reports_and_its_exit_code(workdirs, tmp_path, more, code, words):
    main = pathlib.Path(__file__).parents[1] / "main.py"
    paths = [workdirs[0] if word == "WORKDIR" else word for word in more]
    done = subprocess.run(
        [sys.executable, str(main), "--job=report", f"--output={tmp_path / 'out'}", *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert (tmp_path / "out" / "report.html").exists() == (code == 0)
