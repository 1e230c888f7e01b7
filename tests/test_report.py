import dataclasses
import importlib
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from rtda_jax import evaluate, experiment, report
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.report import groups, plot, runs, tables
from rtda_jax.report.published import PUBLISHED
from rtda_jax.run import log
from rtda_jax.run.workdir import plain, write_json
from rtda_jax.stages import evaluate_stage
from rtda_jax.tools import pictures

HEAD = class_set("cityscapes19")


def write_run(folder, name, seed, *, skill, benchmark="streets"):
    """The records of a run whose confusion matrix is right for a share `skill` of the pixels."""
    config = importlib.import_module(f"configs.{name}").get_config(benchmark)
    config.seed, config.steps = seed, 40
    rng = np.random.default_rng([seed, int(1000 * skill)])
    stages = {}
    for stage, fields in experiment.stages(config.lock()).items():
        write_json(folder / "config.json", plain(config))
        if fields.kind == "train":
            names = ["seg", "adv_output"] if config.objective.adv_output else ["seg"]
            stages[stage] = {
                "step": 40,
                "seconds": 60.0 + seed,
                "objective": " + ".join(f"1·{n}" for n in names),
                "fda_beta": fields.fda_beta,
                "networks": ["bisenet_resnet18: 12,068,672 parameters"],
            }
            for step in range(10, 50, 10):
                row = {"step": step, "loss": 2 / step, **dict.fromkeys(names, 1 / step)}
                if "adv_output" in names:
                    accuracies = {"source": 0.9 - step / 100, "target": 0.5}
                    row |= {f"d_output_accuracy_{d}": v for d, v in accuracies.items()}
                row |= {"images_per_second": 10.0, "data_wait": 0.02, "seconds_left": 1.0}
                (folder / stage).mkdir(parents=True, exist_ok=True)
                log.append(folder / stage / log.METRICS_FILE, row)
            continue
        if fields.kind != "evaluate":
            stages[stage] = {"models": list(fields.models), "seconds": 1.0}
            continue
        confusion = rng.integers(0, 50, (19, 19)) + np.diag(
            rng.integers(0, 1 + int(9000 * skill), 19)
        )
        confusion[16] = confusion[:, 16] = 0  # a class that does not occur
        stages[stage] = {
            **evaluate.report(confusion, names=HEAD.names, rows=range(19)),
            "images": 100,
            "protocol": evaluate_stage.protocol(fields),
            "step": 40,
            "models": list(fields.models),
            "confusion": confusion.tolist(),
            "seconds": 3.5,
            "validators": {"source_miou": 0.5, "entropy": 1 - skill + 0.01 * seed},
        }
        image = rng.integers(0, 256, (8, 16, 3), np.uint8)
        truth = np.full((8, 16, 3), 90, np.uint8)
        sheet = pictures.grid(
            [[truth, image, truth]] * 2,
            titles=["target", "prediction", "truth"],
            names=HEAD.names,
            colours=np.asarray(HEAD.colours, np.uint8),
            width=32,
        )
        pictures.save(sheet, folder / stage / "predictions.png")
    results = {
        "config": plain(config),
        "benchmark": benchmark,
        "seed": seed,
        "commit": "0123456789ab",
        "environment": {"python": "3.11", "packages": {"jax": "0.10"}, "devices": ["1 x cpu"]},
        "command": f"python main.py --config configs/{name}.py --config.seed={seed}",
        "stages": stages,
    }
    write_json(folder / "results.json", results)
    return folder


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made = [write_run(root / f"source_only-seed{s}", "source_only", s, skill=0.1) for s in range(3)]
    made += [write_run(root / f"fda_mbt-seed{s}", "fda_mbt", s, skill=0.4) for s in range(3)]
    made.append(write_run(root / "target_only", "target_only", 0, skill=0.9))
    return [str(path) for path in made]


@pytest.fixture(scope="module")
def written(workdirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report.write(workdirs, out)
    return out


@pytest.mark.parametrize(("name", "adapted"), [("adabn", "eval_adabn"), ("ssl", "eval_ssl")])
def test_networks_that_another_stage_made_are_no_source_only_ones(name, adapted, tmp_path):
    folder = write_run(tmp_path / name, name, 0, skill=0.4)
    rows = {row.stage: row for row in board([folder]).rows}
    assert not rows[adapted].source_only
    report.write([str(folder)], tmp_path / "report")
    assert (tmp_path / "report" / "report.html").exists()


def board(workdirs):
    (found,) = groups.boards(groups.group([runs.load(pathlib.Path(p)) for p in workdirs]))
    return found


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def edited(workdir, tmp_path, change):
    """A copy of a workdir whose results were changed."""
    folder = tmp_path / "edited"
    shutil.copytree(workdir, folder)
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_deleted_and_regenerated_it_is_equal_in_any_order(workdirs, written, tmp_path):
    before = contents(written)
    assert {"report.html", "report.md"} < set(before)
    shuffled = random.Random(3).sample(workdirs, len(workdirs))
    out = tmp_path / "again"
    for given in (shuffled, [str(pathlib.Path(workdirs[0]).parent / "*")]):
        shutil.rmtree(out, ignore_errors=True)
        report.write(given, out)
        assert contents(out) == before


def test_the_committed_report_is_what_its_records_give(tmp_path):
    docs = pathlib.Path(__file__).parents[1] / "docs" / "report"
    kept = docs / "runs"
    if not kept.is_dir():
        pytest.skip("no report is committed")
    report.write([str(kept / "*")], tmp_path)
    # What other versions of the PNG encoder may write otherwise is left out.
    image = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
    for name in ("report.md", "report.html"):
        texts = [image.sub("", (folder / name).read_text()) for folder in (docs, tmp_path)]
        assert texts[0] == texts[1]
    for path in sorted(tmp_path.glob("figures/*.svg")):
        assert path.read_text() == (docs / "figures" / path.name).read_text()


class Tags(HTMLParser):
    """Checks nesting and collects what the page would load."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.anchors = [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [found[k] for k in ("src", "href") if k in found]
        self.ids.add(found.get("id"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(written):
    page = (written / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(load.startswith(("data:", "#")) for load in tags.loads)
    assert {load[1:] for load in tags.loads if load.startswith("#")} <= tags.ids
    assert "<script" not in page
    assert set(re.findall(r"https?://[^\"\s<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "nan" not in re.findall(r"\"(nan|inf|None)[^\"]*\"", page)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) > 12
    for drawing in drawings:
        xml.etree.ElementTree.fromstring(drawing)


def test_markdown_refers_to_every_file_beside_it(written):
    text = (written / "report.md").read_text()
    named = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert named == {name for name in contents(written) if name.startswith("figures/")}
    for name in named:
        if name.endswith(".svg"):
            xml.etree.ElementTree.fromstring((written / name).read_text())


def test_scores_are_mean_and_sample_deviation_over_seeds(workdirs, written):
    values = [
        100
        * json.loads((pathlib.Path(p) / "results.json").read_text())["stages"]["evaluate"]["miou"]
        for p in workdirs[:3]
    ]
    expected = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
    line = next(
        row for row in (written / "report.md").read_text().splitlines() if "| source_only |" in row
    )
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2] == expected
    assert cells[3].split() == [f"{v:.1f}" for v in values]


def test_order_bold_oracle_and_gap(workdirs):
    found = board(workdirs)
    assert found.rows[0].label == "source_only"
    assert found.rows[-1].label == "target_only"
    assert [row.oracle for row in found.rows] == [False] * 4 + [True]
    assert [row.source_only for row in found.rows] == [True] + [False] * 4
    assert tables.best(found) is found.rows[-2]
    lower, upper = tables.ends(found)
    low, here, high = (r.miou.mean for r in (lower, found.rows[2], upper))
    assert tables.gap_closed(found.rows[2], lower, upper) == pytest.approx(
        (here - low) / (high - low)
    )
    assert tables.gap_closed(lower, lower, upper) is None
    results = {
        seed: dataclasses.replace(lower.results[seed], miou=miou)
        for seed, miou in ((0, 0.0), (1, 0.9))
    }
    within = dataclasses.replace(lower, results=results)
    assert tables.gap_closed(found.rows[2], within, upper) is None
    twin = dataclasses.replace(lower, label="focal")
    assert tables.ends(dataclasses.replace(found, rows=[twin, *found.rows])) == (lower, upper)
    assert tables.ends(dataclasses.replace(found, rows=[twin, twin])) == (None, None)
    staged = dataclasses.replace(lower, label="adabn", stage="eval_source_only")
    assert tables.ends(dataclasses.replace(found, rows=[twin, staged])) == (staged, None)
    assert tables.ends(dataclasses.replace(found, rows=[staged, lower])) == (lower, None)


def test_single_seeds_are_marked_and_never_bold(workdirs, tmp_path):
    report.write([workdirs[0], workdirs[3], workdirs[6]], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.count("one seed") == 5
    assert not re.search(r"^\| \*\*", text, flags=re.MULTILINE)
    assert "±" not in text.split("Mean ±")[0]


def test_absent_classes_are_not_zero(workdirs):
    table = tables.classes(board(workdirs))
    column = table.head.index("train")
    assert {row[column] for row in table.rows} == {"n/a"}


def test_runs_of_other_settings_share_no_row_and_other_protocols_no_table(workdirs, tmp_path):
    def change(results):
        results["config"]["optim"]["g_lr"] = 0.5
        results["stages"]["evaluate"]["protocol"]["input_size"] = [48, 96]

    other = edited(workdirs[1], tmp_path, change)
    loaded = groups.group([runs.load(pathlib.Path(p)) for p in (workdirs[0], other)])
    assert len(loaded) == 2
    assert groups.differences(loaded)["optim.g_lr"] in ([0.5, 0.025], [0.025, 0.5])
    assert len(groups.boards(loaded)) == 2
    page = report.write([workdirs[0], other], tmp_path / "out")
    tags = Tags()
    tags.feed(page.read_text())
    assert {"scores-on-streets-protocol-1", "scores-on-streets-protocol-2"} <= tags.ids
    assert (tmp_path / "out" / "figures" / "gallery-streets-2.png").exists()


def test_runs_of_two_versions_are_one_method_if_their_shared_fields_agree(workdirs, tmp_path):
    def older(results):
        del results["config"]["optim"]["g_momentum"]

    shutil.copytree(workdirs[0], tmp_path / "a-seed0")
    shutil.move(edited(workdirs[1], tmp_path, older), tmp_path / "a-seed1")
    shutil.move(edited(workdirs[2], tmp_path, older), tmp_path / "b")
    loaded = groups.group([runs.load(tmp_path / name) for name in ("a-seed0", "a-seed1", "b")])
    assert [(g.label, len(g.runs), g.unshared) for g in loaded] == [
        ("a", 2, ["optim.g_momentum"]),
        ("b", 1, []),
    ]


def test_one_configuration_and_seed_twice_is_refused(workdirs, tmp_path):
    twin = edited(workdirs[0], tmp_path, lambda results: None)
    with pytest.raises(ConfigError, match=r"one configuration with one seed \(0\)"):
        report.write([workdirs[0], twin], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("stages"), r"results\.json: no field 'stages'"),
        (lambda r: r.update(seed="0"), r"results\.json: field 'seed' must be int, found '0'"),
        (
            lambda r: r["stages"]["evaluate"].pop("confusion"),
            r"results\.json: stages: evaluate: no field 'confusion'",
        ),
        (
            lambda r: r["stages"]["evaluate"]["confusion"].pop(),
            r"stages: evaluate: field 'confusion' must be 19 x 19 counts",
        ),
        (
            lambda r: r["stages"]["evaluate"]["iou"].update(road="high"),
            r"evaluate: iou: field 'road' must be int or float or null, found 'high'",
        ),
        (
            lambda r: r["stages"]["evaluate"]["protocol"].update(head_classes="mine"),
            r"protocol: field 'head_classes': unknown classes 'mine'; known:",
        ),
        (lambda r: r["stages"]["train"].update(seconds=True), r"'seconds' must be int or float"),
    ],
)
def test_a_foreign_record_is_named_by_file_and_field(workdirs, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        report.write([edited(workdirs[0], tmp_path, change)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_that_can_not_be_read_are_named(workdirs, tmp_path):
    with pytest.raises(ConfigError, match="nowhere finds no folder"):
        report.write([str(tmp_path / "nowhere")], tmp_path / "out")
    with pytest.raises(ConfigError, match="name the workdirs"):
        report.write([], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/results\.json: No such file"):
        report.write([str(tmp_path / "empty")], tmp_path / "out")
    torn = edited(workdirs[0], tmp_path, lambda results: None)
    with (pathlib.Path(torn) / "train" / log.METRICS_FILE).open("a") as file:
        file.write('{"step": 5')
    with pytest.raises(ConfigError, match=r"train/metrics\.jsonl, line 5: not JSON"):
        report.write([torn], tmp_path / "out")


def test_an_unfinished_run_shows_what_it_has(workdirs, tmp_path):
    partial = edited(workdirs[3], tmp_path, lambda r: [r["stages"].pop("eval_mbt")])
    report.write([partial], tmp_path / "out")
    assert "not yet: eval_mbt" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_that_has_only_begun_is_listed(workdirs, tmp_path):
    shutil.copytree(workdirs[3], tmp_path / "begun")
    (tmp_path / "begun" / "results.json").unlink()
    report.write([workdirs[0], str(tmp_path / "begun")], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| begun | 0 | unknown | not yet: beta_001, beta_005, eval_001" in text
    assert "2 runs of 2 configurations" in text
    report.write([str(tmp_path / "begun")], tmp_path / "alone")


def test_rank_correlation_against_its_definition():
    rng = np.random.default_rng(1)
    a, b = rng.permutation(9), rng.permutation(9)
    d = np.sum((a - b) ** 2)
    expected = 1 - 6 * d / (9 * (81 - 1))
    assert tables.spearman(list(zip(a.tolist(), b.tolist(), strict=True))) == pytest.approx(
        expected
    )
    assert tables.spearman([(1, 2), (2, 3)]) is None
    assert tables.spearman([(1, 2), (1, 3), (1, 4)]) is None


def test_an_entropy_that_falls_as_scores_rise_correlates_positively(workdirs):
    rows = {row[0]: row for row in tables.correlations(board(workdirs)).rows}
    assert float(rows["entropy"][1]) > 0.5
    assert rows["entropy"][2] == "13"
    assert rows["source_miou"][1] == "n/a"


def test_discriminators_are_read_from_the_last_quarter(workdirs):
    table = tables.discriminators(groups.group([runs.load(pathlib.Path(workdirs[3]))]))
    assert [row[2:] for row in table.rows] == [["0.50", "0.50", "0.50", tables.reading(0.5)]] * 2
    assert (tables.reading(0.7), tables.reading(0.99)) == ("contested", "saturated")


def test_seeds_of_one_workdir_are_its_runs(workdirs, tmp_path):
    for seed in (0, 1):
        shutil.copytree(workdirs[seed], tmp_path / "mine" / f"seed{seed}")
    (tmp_path / "mine" / "summary.json").write_text("{}")
    found = runs.find([str(tmp_path / "mine"), str(tmp_path / "mine" / "seed1")])
    assert [p.name for p in found] == ["seed0", "seed1"]
    (one,) = groups.group([runs.load(path) for path in found])
    assert one.label == "mine"
    assert [run.name for run in one.runs] == ["mine/seed0", "mine/seed1"]


def test_networks_are_listed_once(written):
    text = (written / "report.md").read_text()
    assert text.count("| bisenet_resnet18 | 12,068,672 parameters |") == 1


def test_published_numbers_show_for_their_data_or_when_asked_and_apart(workdirs, tmp_path):
    title = "Published, other data, not comparable"
    report.write(workdirs[:1], tmp_path / "a")
    assert title not in (tmp_path / "a" / "report.md").read_text()
    report.write(workdirs[:1], tmp_path / "b", published=["s1"])
    text = (tmp_path / "b" / "report.md").read_text()
    assert "S1, Nikiforos" in text.split(title)[1]
    assert "S2, " not in text
    real = write_run(tmp_path / "real", "fda", 0, skill=0.3, benchmark="gta5_to_cityscapes")
    report.write([str(real)], tmp_path / "c")
    after = (tmp_path / "c" / "report.md").read_text().split(title)[1]
    assert all(PUBLISHED[key].title in after for key in ("s0", "s1", "s2", "s3"))
    assert "S4" not in after
    with pytest.raises(ConfigError, match="unknown paper 's9'; known: s0, s1"):
        report.write(workdirs[:1], tmp_path / "d", published=["s9"])


def test_speed_files_make_a_plot_and_are_checked(workdirs, tmp_path):
    process = {"device": "cpu", "sizes": {"512x1024": {"rows": {"host": {"seconds": [0.2, 0.1]}}}}}
    timed = {"model": "bisenet_resnet18", "cores": 2, "infer": {"ours": [process]}}
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(timed))
    report.write(workdirs, tmp_path / "out", speeds=[str(path)])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| bisenet_resnet18 | 512x1024 | 150.0 | 6.7 | cpu, 2 cores | unknown |" in text
    with pytest.raises(ConfigError, match="was timed by an earlier file"):
        report.write(workdirs, tmp_path / "out", speeds=[str(path), str(path)])
    del process["sizes"]["512x1024"]["rows"]
    path.write_text(json.dumps(timed))
    with pytest.raises(ConfigError, match=r"speed\.json: infer: ours: sizes: 512x1024: no field"):
        report.write(workdirs, tmp_path / "out", speeds=[str(path)])


def test_cells_come_back_out_of_a_sheet(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 16, 3), np.uint8) for _ in "ab"] for _ in range(3)]
    colours = np.asarray(HEAD.colours, np.uint8)
    sheet = pictures.grid(rows, titles=["a", "b"], names=HEAD.names, colours=colours, width=16)
    pictures.save(sheet, tmp_path / "sheet.png")
    found = pictures.cells(tmp_path / "sheet.png")
    assert list(found) == ["a", "b"]
    for c, name in enumerate("ab"):
        np.testing.assert_array_equal(found[name], [row[c] for row in rows])
    sheet.info.clear()
    pictures.save(sheet, tmp_path / "older.png")
    assert pictures.cells(tmp_path / "older.png") is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 400, [0, 100, 200, 300, 400]), (3.2, 7.1, [4, 5, 6, 7])],
)
def test_ticks_are_round_numbers_inside(low, high, expected):
    assert plot.ticks(low, high) == pytest.approx(expected)


def test_coordinates_are_short():
    assert [plot.number(v) for v in (1.0, 0.126, -0.001, 120.5)] == ["1", "0.13", "0", "120.5"]


@pytest.mark.parametrize(
    ("more", "code", "says"), [(["WORKDIR"], 0, "report.html"), ([], 2, "runs")]
)
def test_the_job_reports_and_its_exit_code(workdirs, tmp_path, more, code, says):
    main = pathlib.Path(__file__).parents[1] / "main.py"
    paths = [workdirs[0] if word == "WORKDIR" else word for word in more]
    done = subprocess.run(
        [sys.executable, str(main), "--job=report", f"--output={tmp_path / 'out'}", *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert (tmp_path / "out" / "report.html").exists() == (code == 0)
