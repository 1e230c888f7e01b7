"""Damaged or hostile records of runs give a report that shows them as text, or a named error."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutilate import JSONS, bounded, changed, fuzz, mutilated, nested
from PIL import Image, PngImagePlugin
from run_records import Tags, write_run

from rtda_jax import report
from rtda_jax.errors import ConfigError
from rtda_jax.report import page, records, runs
from rtda_jax.report.contents import document
from rtda_jax.stages import KINDS
from rtda_jax.tools import drawing


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder of a run and the content of its results.json."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", "fda_mbt", 0, skill=0.4)
    return folder, (folder / "results.json").read_text()


def rewritten(finished, folder, change):
    """Copies a run to `folder` with changed results."""
    shutil.copytree(finished[0], folder, dirs_exist_ok=True)
    record = json.loads(finished[1])
    change(record)
    (folder / "results.json").write_text(json.dumps(record))
    return folder


@settings(fuzz, max_examples=40)
@given(st.data())
def test_results_of_another(finished, data):
    folder, text = finished
    (folder / "results.json").write_text(data.draw(changed(text)))
    with contextlib.suppress(ConfigError):
        run = runs.load(folder, KINDS)
        page.html(document([run], speeds={}, papers=()))


@settings(fuzz, max_examples=100)
@given(st.data())
def test_metrics_of_another(tmp_path, data):
    line = b'{"step": 10, "loss": 0.5, "d_output_accuracy_source": 0.4, "x": null}\n'
    seeds = [3 * line, b'{"step": 1e400}', b'{"step": NaN}', b"[]\n", b'{"step": 1, "loss": "x"}']
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / "metrics.jsonl").write_bytes(data.draw(mutilated(seeds)))
    record = {"objective": "1·seg", "seconds": 1.0, "step": 10}
    with bounded(), contextlib.suppress(ConfigError):
        runs._training(record, "train", tmp_path / "train")


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff", b"null", b'{"seed": 1e999}'])
@pytest.mark.parametrize("name", ["results.json", "config.json"])
def test_records_that_are_none(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        runs.load(tmp_path, KINDS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"stages": [[1]]}, r"config: field 'stages\[0\]' must be str, found \[1\]"),
        ({"stages": nested(80)}, "more than 64 objects and lists in one another"),
        ({"stages": ["train"] * 300}, "more than 64 stages"),
        ({"x": dict.fromkeys(map(str, range(5000)))}, "more than 4096 fields"),
    ],
)
def test_configurations_of_a_record_have_limits(finished, tmp_path, value, words):
    with pytest.raises(ConfigError, match=words):
        runs.load(rewritten(finished, tmp_path, lambda r: r["config"].update(value)), KINDS)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("models", [{}], r"eval_mbt: field 'models\[0\]' must be str"),
        ("confusion", [["1"] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("confusion", [[-1] * 19] * 19, "eval_mbt: field 'confusion' holds something else"),
        ("seconds", float("nan"), "eval_mbt: field 'seconds' must be int or float, found None"),
        ("seconds", -1, "eval_mbt: field 'seconds' must be 0 or more"),
        ("seconds", "x" * 10**6, "eval_mbt: field 'seconds' must be int or float, found '.{,60}$"),
    ],
)
def test_fields_of_an_evaluation(finished, tmp_path, field, value, words):
    def change(record):
        record["stages"]["eval_mbt"][field] = value

    with pytest.raises(ConfigError, match=words):
        runs.load(rewritten(finished, tmp_path, change), KINDS)


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "", "a/b", "a\\b", "é" * 101])
@pytest.mark.parametrize("planned", [False, True])
def test_a_stage_of_a_record_is_no_path(finished, tmp_path, name, planned):
    def change(record):
        record["stages"][name] = record["stages"]["eval_mbt"]
        if planned:
            record["config"]["stages"].append(name)
            record["config"]["stage"][name] = {"kind": "evaluate", "models": ["beta_001"]}

    with pytest.raises(ConfigError, match="cannot be the name of a stage"):
        runs.load(rewritten(finished, tmp_path, change), KINDS)


NASTY = (
    "</title><script>alert(1)</script>\x1b[31m\n| <img src=x onerror=alert(2)> `**$x^2$** [a](b)"
)


def test_what_a_run_says_is_shown_as_text(finished, tmp_path):
    """Tries markup in every place where a record can hold text, in both forms of the report."""

    def change(record):
        config, stages = record["config"], record["stages"]
        shown = NASTY.replace("/", "").replace("\x1b", "").replace("\n", "")
        for old, new in (("beta_001", shown), ("eval_mbt", "<b>" + shown[-40:])):
            config["stages"] = [new if name == old else name for name in config["stages"]]
            config["stage"][new], stages[new] = config["stage"].pop(old), stages.pop(old)
        record |= {"benchmark": NASTY, "commit": NASTY, "command": NASTY + "``` x"}
        record["environment"] = {"devices": [NASTY], "packages": {NASTY: NASTY}, "python": NASTY}
        config["model"]["name"] = NASTY
        config["optim"][NASTY] = NASTY
        for stage in stages.values():
            if "protocol" in stage:
                stage["protocol"]["split"] = {"name": NASTY}
                stage["models"] = [NASTY]
            elif "objective" in stage:
                stage |= {"networks": [f"{NASTY}: {NASTY}"], "objective": NASTY}

    folder = tmp_path / ("<i>`" + "x" * 240)
    rewritten(finished, folder, change)
    report.write([str(folder)], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    assert "\x1b" not in html
    tags = Tags()  # it refuses event handlers and unbalanced tags
    tags.feed(html)
    assert tags.open == []
    text = (tmp_path / "out" / "report.md").read_text()
    assert "\x1b" not in text
    fenced = re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    ours = ("<details>", "<summary>", "</summary>", "</details>")
    assert set(re.findall(r"(?<!\\)<[^>]*>?", fenced)) <= set(ours)
    # A line of HTML holds no Markdown.
    outside = re.sub(r"<summary>.*?</summary>", "", fenced)
    assert not re.search(r"(?<!\\)\[a\]|(?<!\\)\$x", outside)
    assert all(len(path.name) < 100 for path in (tmp_path / "out" / "figures").iterdir())


def test_names_of_250_characters_are_cut_and_stay_distinct(finished, tmp_path):
    names = ["m" * 248 + end for end in "ab"]
    for i, name in enumerate(names):
        rewritten(finished, tmp_path / name, lambda r, i=i: r["config"].update(batch_size=7 + i))
    report.write([str(tmp_path / name) for name in names], tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.repeated == set()
    assert len([i for i in tags.ids if i and i.startswith("run-")]) == 2


@pytest.mark.parametrize("name", ["results.json", "beta_001/metrics.jsonl", "predictions"])
@pytest.mark.parametrize("kind", ["fifo", "device", "link"])
def test_files_of_a_run_are_regular_and_inside_it(finished, tmp_path, name, kind):
    """No special file makes the report hang or show the content of another folder."""
    folder = rewritten(finished, tmp_path / "run", lambda r: None)
    path = folder / ("eval_mbt/predictions.png" if name == "predictions" else name)
    outside = path.rename(tmp_path / "elsewhere")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else outside)
    words = "a link that leads out of" if kind == "link" else "is not a regular file"
    with pytest.raises(ConfigError, match=f"{path.name}: {words}"):
        report.write([str(folder)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_whole_run_is_fine(finished, tmp_path):
    rewritten(finished, tmp_path / "disk" / "run", lambda r: None)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(tmp_path / "disk" / "run")
    assert runs.load(tmp_path / "runs" / "mine", KINDS).evaluations


def test_files_of_a_run_have_a_limit(finished, tmp_path):
    folder = rewritten(finished, tmp_path / "run", lambda r: None)
    for name in ("eval_mbt/predictions.png", "beta_001/metrics.jsonl", "results.json"):
        with (folder / name).open("ab") as file:
            file.truncate(1 << 34)  # a sparse file, which takes no space
        with pytest.raises(
            ConfigError, match=rf"{name}: has 17,179,869,184 bytes; expected at most"
        ):
            report.write([str(folder)], tmp_path / "out")


def sheet(claim, size=(60, 40), mode="RGB"):
    """Writes a PNG that claims to have cells."""
    image = Image.new(mode, size)
    words = PngImagePlugin.PngInfo()
    words.add_text(drawing.CELLS, json.dumps(claim))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=words)
    return stream.getvalue()


CELL = {"titles": ["target", "prediction", "truth"], "rows": 1, "size": [4, 8]}


def read_sheet(data, folder):
    """Returns the cells of a picture, read as the report reads them."""
    (folder / "evaluate").mkdir(exist_ok=True)
    path = folder / "evaluate" / "predictions.png"
    path.write_bytes(data)
    return records.read_cells(path)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"rows": -1},
        {"rows": 10**9},
        {"rows": True},
        {"rows": 1.0},
        {"rows": "1"},
        {"size": [0, 8]},
        {"size": [4, 0]},
        {"size": [4, -8]},
        {"size": [4000, 8]},
        {"size": [4, 40]},
        {"size": [4]},
        {"size": None},
        {"titles": None},
        {"titles": ["x"] * 10**5},
        {"titles": 3},
    ],
)
def test_cells_that_a_sheet_does_not_have(tmp_path, change):
    assert set(read_sheet(sheet(CELL), tmp_path)) == set(CELL["titles"])
    with bounded(), pytest.raises(ConfigError, match=r"predictions\.png: not a picture"):
        read_sheet(sheet(CELL | change), tmp_path)


def test_cells_of_strange_titles_and_none(tmp_path):
    assert read_sheet(sheet(CELL | {"titles": [{}, None]}), tmp_path).keys() == {"{}", "None"}
    assert read_sheet(sheet(CELL | {"titles": []}), tmp_path) == {}


BUDGET = """
import pathlib, resource, sys, time
from rtda_jax import report
from rtda_jax.errors import ConfigError
from rtda_jax.report import contents, page  # what they import counts for nothing

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, begin = memory(), time.process_time()
try:
    report.write([sys.argv[1]], pathlib.Path(sys.argv[2]))
except ConfigError as error:
    print("ConfigError:", error, file=sys.stderr)
print(time.process_time() - begin, memory() - before)
"""


def spent(folder, out):
    """Returns the seconds, the MiB and the error messages of a process that reports on a run."""
    command = [sys.executable, "-c", BUDGET, str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    seconds, size = map(float, done.stdout.split())
    return seconds, size, done.stderr


@pytest.mark.parametrize(
    ("size", "mode", "refused"), [((12_000, 12_000), "1", True), ((4096, 4096), "1", False)]
)
def test_a_small_file_of_a_large_picture_is_cheap(finished, tmp_path, size, mode, refused):
    """The largest allowed picture is read in every stage; a larger one is refused."""
    folder = rewritten(finished, tmp_path / "run", lambda r: None)
    claim = CELL | {"rows": 1, "size": [4000, 1300]}
    data = sheet(claim, size, mode)
    assert len(data) < 30_000
    for stage in ("eval_001", "eval_005", "eval_mbt"):
        (folder / stage / "predictions.png").write_bytes(data)
    seconds, memory, words = spent(folder, tmp_path / "out")
    assert ("pixels" in words) == refused
    assert seconds < 20
    assert memory < 400


def test_many_short_rows_of_metrics_are_cheap(finished, tmp_path):
    folder = rewritten(finished, tmp_path / "run", lambda r: None)
    lines = "".join(f'{{"step":{i},"loss":1}}\n' for i in range(200_000))
    (folder / "beta_001" / "metrics.jsonl").write_text(lines)
    seconds, memory, words = spent(folder, tmp_path / "out")
    assert words == ""
    assert seconds < 30
    assert memory < 500


def test_many_names_in_metrics_are_refused(finished, tmp_path):
    folder = rewritten(finished, tmp_path / "run", lambda r: None)
    row = {"step": 1} | {f"d_{i}_accuracy_source": 0.5 for i in range(100)}
    (folder / "beta_001" / "metrics.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: more than 48 terms"):
        runs.load(folder, KINDS)


@fuzz
@given(st.data())
def test_pictures_of_a_run(tmp_path, data):
    whole = sheet({"titles": ["truth"], "rows": 1, "size": [8, 8]})
    with bounded(), contextlib.suppress(ConfigError):
        read_sheet(data.draw(mutilated([whole])), tmp_path)


@fuzz
@given(mutilated([b'{"model": "x", "cores": 2, "infer": {"ours": [{"sizes": {}}]}}', *JSONS]))
def test_speeds(tmp_path, data):
    (tmp_path / "speed.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        runs.speeds([tmp_path / "speed.json"])


@fuzz
@given(mutilated([b'{"files": ["report.md", "figures/a.svg"]}', *JSONS]))
def test_lists_of_earlier_reports(tmp_path, data):
    (tmp_path / "report.json").write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert report._listed(tmp_path) == set()  # the file does not exist


@fuzz
@given(st.text(max_size=40))
def test_markdown_shows_any_text_as_it_is(text):
    """Escaped text holds no markup, and unescaping gives the original text."""
    shown = page.plain(text)
    back = re.sub(r"\\([\\`*|\[\]$~_])", r"\1", shown)
    assert back.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text
    assert not re.search(r"[<>]", shown)
