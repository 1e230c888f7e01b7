import pathlib
import re
import shutil
import statistics

import numpy as np
import pytest
from run_records import Tags, board, edited, same, series, table, write_run

from rtda_jax import report
from rtda_jax.report import compare, contents, runs
from rtda_jax.stages import KINDS


def test_order_bold_oracle_and_gap(workdirs):
    rows = board(workdirs).rows
    assert rows[0].label == "source_only"
    assert rows[-1].label == "target_only"
    assert [row.oracle for row in rows] == [False] * 4 + [True]
    assert [row.source_only for row in rows] == [True] + [False] * 4
    assert board(workdirs).best(40).label == rows[-2].label
    lower, upper = board(workdirs).ends(40)
    low, here, high = (r.miou.mean for r in (lower, rows[2], upper))
    gap = board(workdirs).gap_closed(rows[2])
    assert gap == pytest.approx((here - low) / (high - low))


def row(label, miou, *, stage="evaluate", budget=40, seen=()):
    """A row of a table that has scores only."""
    planned = {stage: KINDS["evaluate"]}
    stages = []
    for seed, value in enumerate(miou):
        evaluation = runs.Evaluation(value, value, {}, [], {}, {}, [], 1, budget, 1.0, None)
        run = runs.Run(f"{label}-s{seed}", {}, "b", seed, planned, evaluations={stage: evaluation})
        stages.append(compare.Stage(run, stage, {}, budget, frozenset(seen)))
    return compare.Series(label, stages, [], 0, 0)


IMAGES, LABELS = (compare.IMAGES,), (compare.LABELS,)


def test_the_gap_is_left_out_where_it_would_be_noise_or_of_other_steps():
    adapted = row("adv", [0.3, 0.32], seen=IMAGES)
    oracle = row("oracle", [0.5, 0.52], seen=LABELS)
    source = row("source_only", [0.1, 0.12])
    assert compare.Board("b", {}, [source, adapted, oracle]).gap_closed(adapted) == 0.5
    noisy = row("source_only", [0.0, 0.9])
    assert compare.Board("b", {}, [noisy, adapted, oracle]).gap_closed(adapted) is None
    noisy = row("oracle", [0.2, 0.9], seen=LABELS)
    assert compare.Board("b", {}, [source, adapted, noisy]).gap_closed(adapted) is None
    # A gap of 0.4 between deviations of 0.21 each is noise, and that of one seed has none.
    broad = [row("source_only", [-0.04, 0.26]), row("oracle", [0.36, 0.66], seen=LABELS)]
    assert compare.Board("b", {}, [broad[0], adapted, broad[1]]).gap_closed(adapted) is None
    assert compare.Board("b", {}, [source, adapted, broad[1]]).gap_closed(adapted) == 0.5
    alone = [row("source_only", [0.11]), row("oracle", [0.51], seen=LABELS)]
    assert compare.Board("b", {}, [alone[0], adapted, alone[1]]).gap_closed(adapted) == 0.5
    other = row("oracle", [0.5, 0.52], seen=LABELS, budget=80)
    assert compare.Board("b", {}, [source, adapted, other]).gap_closed(adapted) is None
    assert compare.Board("b", {}, [source, oracle]).gap_closed(source) is None


def test_the_ends_are_the_only_ones_of_their_kind_or_so_called():
    plain, twin = row("source_only", [0.1]), row("focal", [0.1])
    staged = row("adabn", [0.1], stage="eval_source_only")

    def lower(*rows):
        end, _ = compare.Board("b", {}, rows).ends(40)
        return end.label if end else None

    assert lower(twin) == "focal"
    assert lower(twin, plain) == "source_only"
    assert lower(twin, twin) is None
    assert lower(twin, staged) == "adabn"
    assert lower(staged, plain) == "source_only"


def test_only_rows_of_the_same_steps_are_compared():
    short = [row("adv", [0.2, 0.21], seen=IMAGES), row("mbt", [0.22, 0.23], seen=IMAGES)]
    long = row("longer", [0.4, 0.41], seen=IMAGES, budget=80)
    found = compare.Board("b", {}, [*short, long])
    assert found.best(40).label == "mbt"
    assert found.best(80) is None  # nothing to compare it with
    assert contents._facts([found]) == [("22.5 ± 0.7", "mIoU, %: mbt, best adapted")]


def test_the_main_numbers_are_of_the_steps_that_most_rows_have_or_else_of_the_fewest():
    short = [row("source_only", [0.1, 0.11]), row("oracle", [0.5, 0.51], seen=LABELS)]
    long = [row("source_only", [0.2], budget=80), row("oracle", [0.6], seen=LABELS, budget=80)]
    more = row("adv", [0.3], seen=IMAGES, budget=80)

    def numbers(*rows):
        return [number for number, _ in contents._facts([compare.Board("b", {}, rows)])]

    assert numbers(*long, *short) == ["10.5 ± 0.7", "50.5 ± 0.7"]
    assert numbers(*short, *long, more) == ["20.0", "60.0"]
    assert contents._facts([compare.Board("b", {}, short)] * 2) == []
    best = [row("adv", [0.3, 0.31], seen=IMAGES), row("fda", [0.35, 0.36], seen=IMAGES)]
    assert contents._facts([compare.Board("b", {}, [*short, *best])])[1:] == [
        ("35.5 ± 0.7", "mIoU, %: fda, best adapted"),
        ("50.5 ± 0.7", "mIoU, %: oracle, trained on target labels"),
        ("62%", "of the gap closed"),
    ]


def test_rows_are_in_the_order_of_steps_then_source_only_scores_and_the_oracle():
    rows = [
        row("z", [0.9], budget=80, seen=IMAGES),
        row("oracle", [0.2], seen=LABELS),
        row("b", [0.4], seen=IMAGES),
        row("a", [0.4], seen=IMAGES),
        row("c", [0.3], seen=IMAGES),
        row("none", [None], seen=IMAGES),
        row("source_only", [0.6]),
    ]
    ordered = [r.label for r in sorted(rows, key=compare._order)]
    assert ordered == ["source_only", "none", "c", "a", "b", "oracle", "z"]


def test_a_single_row_of_several_seeds_is_not_bold_nor_one_of_single_seeds(
    undrawn, workdirs, tmp_path
):
    assert compare.Board("b", {}, [row("adv", [0.2, 0.3]), row("x", [0.9])]).best(40) is None
    labelled = row("oracle", [0.9, 0.91], seen=LABELS)
    rows = [row("adv", [0.2, 0.3]), row("fda", [0.1, 0.3]), labelled]
    assert compare.Board("b", {}, rows).best(40).label == "adv"
    report.write([workdirs[0], workdirs[3], workdirs[6]], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.count("(one seed)") == 5
    assert not re.search(r"^\| \*\*", text, flags=re.MULTILINE)
    assert "±" not in text.split("Mean ±")[0]


@pytest.mark.parametrize(("name", "adapted"), [("adabn", "eval_adabn"), ("ssl", "eval_ssl")])
def test_networks_that_another_stage_made_are_no_source_only_ones(name, adapted, tmp_path):
    folder = write_run(tmp_path / name, name, 0, skill=0.4)
    rows = {row.stages[0].name: row for row in board([folder]).rows}
    assert not rows[adapted].source_only


def test_a_kind_of_stage_of_a_users_own_has_no_record(undrawn, workdirs, tmp_path):
    def rename(results):
        results["config"]["stage"]["adabn"]["kind"] = "average"

    folder = write_run(tmp_path / "plain", "adabn", 0, skill=0.4)
    own = edited(folder, tmp_path / "own", rename)
    rows = {row.stages[0].name: row for row in board([own]).rows}
    assert rows["eval_adabn"].budget == 40 and not rows["eval_adabn"].source_only
    report.write([own, str(workdirs[0])], tmp_path / "out")
    scores = table((tmp_path / "out" / "report.md").read_text(), "method")
    assert set(scores) == {"own · eval_adabn", "source_only"}


def test_steps_are_those_behind_a_network(tmp_path):
    """Self-training has the steps of both its stages, a fusion those of one network."""
    folders = [write_run(tmp_path / n, n, 0, skill=0.4) for n in ("ssl", "fda_mbt")]
    budgets = {row.stages[0].name: row.budget for row in board(folders).rows}
    assert budgets == {
        "eval_adversarial": 40,
        "eval_ssl": 80,
        "eval_001": 40,
        "eval_005": 40,
        "eval_mbt": 40,
    }


def test_one_configuration_is_one_row_wherever_its_runs_lie(undrawn, tmp_path):
    """Also where it is a stage of a larger experiment: its own seeds count first."""
    alone = [
        write_run(tmp_path / "a" / f"adv-s{s}", "adversarial", s, skill=0.2 + s / 10)
        for s in range(2)
    ]
    inside = [write_run(tmp_path / "b" / f"aaa-s{s}", "ssl", s, skill=0.4) for s in (1, 2)]
    trained, (only,) = series([*alone, *inside])
    rows = {row.label: row for row in only.rows}
    assert set(rows) == {"adv", "aaa · eval_ssl"}
    assert [(s.run.name, s.name) for s in rows["adv"].stages] == [
        ("adv-s0", "evaluate"),
        ("adv-s1", "evaluate"),
        ("aaa-s2", "eval_adversarial"),
    ]
    assert [s.run.name for s in rows["adv"].repeats] == ["aaa-s1"]
    assert {s.label: len(s.stages) for s in trained} == {"adv": 3, "aaa · ssl": 2}
    report.write([str(path) for path in (*alone, *inside)], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    repeat = table(text, "stage")["aaa-s1 · eval_adversarial"]
    assert (repeat["method"], repeat["seed"]) == ("adv", "1")
    assert repeat["what counts, %"] == table(text, "method")["adv"]["seed 1"]
    assert repeat["its mIoU, %"] != repeat["what counts, %"]


def test_a_workdir_and_the_seeds_in_it_are_one_row(workdirs, tmp_path):
    for seed in (0, 1, 2):
        shutil.copytree(workdirs[seed], tmp_path / "mine" / f"seed{seed}")
    for name in ("results.json", "config.json", "evaluate", "train"):
        copy = shutil.copytree if "." not in name else shutil.copy
        copy(pathlib.Path(workdirs[0]) / name, tmp_path / "mine" / name)
    (tmp_path / "mine" / "summary.json").write_text("{}")
    folders, _ = runs.find([str(tmp_path / "mine"), str(tmp_path / "mine" / "seed1")])
    assert [p.name for p in folders] == ["mine", "seed0", "seed1", "seed2"]
    (only,) = board([tmp_path / "mine"]).rows
    assert only.label == "mine"
    assert [stage.run.name for stage in only.stages] == ["mine", "mine/seed1", "mine/seed2"]
    assert [stage.run.name for stage in only.repeats] == ["mine/seed0"]


def test_runs_of_other_settings_share_no_row_and_other_protocols_no_table(
    undrawn, workdirs, tmp_path
):
    def change(results):
        results["config"]["optim"]["g_lr"] = 0.5
        results["stages"]["evaluate"]["protocol"]["input_size"] = [48, 96]

    other = edited(workdirs[1], tmp_path / "edited", change)
    trained, boards = series([workdirs[0], other])
    assert len(trained) == len(boards) == 2
    assert compare.differences(trained)["optim.g_lr"] in ([0.5, 0.025], [0.025, 0.5])
    written = report.write([workdirs[0], other], tmp_path / "out")
    tags = Tags()
    tags.feed(written.read_text())
    assert {"scores-on-streets-protocol-1", "scores-on-streets-protocol-2"} <= tags.ids


def test_seeds_are_of_one_row_only_if_their_data_are(tmp_path):
    """Data that moved are the same for a run that continues, but not for two runs."""

    def run(name, seed=0, **data):
        def change(results):
            places = {"images": "gta", "labels": "gta_labels", "store_dir": f"/scratch/{name}"}
            results["config"]["benchmark"]["source"] |= {**places, **data}
            results["config"]["data_dir"] = f"/job/{name}"
            for stage in results["stages"].values():
                if "protocol" in stage:  # all are evaluated on the same images
                    stage["protocol"]["split"] = {"name": "folders", "images": "val"}

        written = tmp_path / "written" / name
        write_run(written, "source_only", seed, skill=0.4, benchmark="folders")
        return edited(written, tmp_path / name, change)

    first, second = run("gta-s0"), run("gta-s1", 1)
    others = [
        run(f"other-s{seed}", seed, **{field: "other"})
        for seed, field in enumerate(("images", "labels", "labelling", "list", "quarantine"))
    ]
    trained, (only,) = series([first, second, *others])
    for rows in (trained, only.rows):
        assert sorted(len(row.stages) for row in rows) == [1, 1, 1, 1, 1, 2]
        assert not any(row.repeats for row in rows)
    assert "benchmark.source.images" in compare.differences(trained)


@pytest.mark.parametrize(
    ("field", "value", "tables"),
    [
        ("absent", "zero", 2),
        ("output", "coarse", 2),
        ("resize", "bicubic", 2),
        ("upsampled", "mean logits", 1),
    ],
)
def test_scores_by_different_rules_are_no_seeds_of_one_row(
    workdirs, tmp_path, field, value, tables
):
    def change(results):
        results["stages"]["evaluate"]["protocol"][field] = value

    _, boards = series([workdirs[0], edited(workdirs[1], tmp_path / "edited", change)])
    assert len(boards) == tables
    assert [len(row.stages) for board in boards for row in board.rows] == [1, 1]


def test_labels_of_different_configurations_are_distinct(undrawn, workdirs, tmp_path):
    def change(results):
        results["config"]["optim"]["g_lr"] = 0.5

    for name in ("a", "b", "c"):
        folder = tmp_path / name / "adv-s1"
        edited(workdirs[1], folder, change if name == "b" else same)
    rows = board([tmp_path / n / "adv-s1" for n in "ab"]).rows
    assert sorted(row.label for row in rows) == ["a/adv", "b/adv"]
    (only,) = board([tmp_path / n / "adv-s1" for n in "ac"]).rows
    assert (only.label, len(only.repeats)) == ("a/adv", 1)
    shutil.copytree(tmp_path / "b" / "adv-s1", tmp_path / "b" / "adv-s2")
    page = report.write([str(tmp_path / n / "adv-s*") for n in "abc"], tmp_path / "out")
    tags = Tags()
    tags.feed(page.read_text())
    assert tags.repeated == set()
    assert {"run-a.2fadv-s1", "run-b.2fadv-s1", "run-c.2fadv-s1", "run-adv-s2"} <= tags.ids


def test_runs_of_two_versions_are_one_method_if_their_shared_fields_agree(workdirs, tmp_path):
    def older(results):
        del results["config"]["optim"]["g_momentum"]

    shutil.copytree(workdirs[0], tmp_path / "a-seed0")
    edited(workdirs[1], tmp_path / "a-seed1", older)
    edited(workdirs[2], tmp_path / "b", older)
    trained, _ = series([tmp_path / name for name in ("a-seed0", "a-seed1", "b")])
    # b is equal to one of a's runs, and agrees with the other in all that both know.
    assert [(s.label, len(s.stages), s.unshared) for s in trained] == [
        ("a", 3, ["optim.g_momentum"])
    ]
    # The same seed twice, and not the same fields: which of them would count?
    edited(workdirs[0], tmp_path / "a-s0", older)
    trained, _ = series([tmp_path / name for name in ("a-seed0", "a-s0")])
    assert [len(s.stages) for s in trained] == [1, 1]
    trained, _ = series([tmp_path / name for name in ("a-seed0", "b")])
    assert [(s.label, len(s.stages), s.unshared) for s in trained] == [("a", 1, []), ("b", 1, [])]


def naive_ranks(values):
    """Ranks from 1, ties sharing the mean of theirs, by counting."""
    below = [sum(other < value for other in values) for value in values]
    equal = [sum(other == value for other in values) for value in values]
    return [b + (e + 1) / 2 for b, e in zip(below, equal, strict=True)]


def test_rank_correlation_against_its_definition():
    rng = np.random.default_rng(1)
    a, b = rng.permutation(9), rng.permutation(9)
    expected = 1 - 6 * np.sum((a - b) ** 2) / (9 * (81 - 1))
    assert compare.spearman(list(zip(a, b, strict=True))) == pytest.approx(expected)
    assert compare.spearman([(1, 2), (2, 3)]) is None
    assert compare.spearman([(1, 2), (1, 3), (1, 4)]) is None
    assert compare.spearman([(1, 2), (2, 3), (3, 9)]) == pytest.approx(1)


def test_rank_correlation_with_ties():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 4, 30).tolist(), rng.integers(0, 4, 30).tolist()
    ranks = [naive_ranks(side) for side in (a, b)]
    assert compare.spearman(list(zip(a, b, strict=True))) == pytest.approx(
        statistics.correlation(*ranks)
    )
