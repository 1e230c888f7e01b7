import pathlib
import shutil

import pytest
from run_records import edited, same

from rtda_jax import report
from rtda_jax.errors import ConfigError
from rtda_jax.report import runs
from rtda_jax.run import log


def test_a_folder_is_taken_by_its_name_before_it_is_a_glob(workdirs, tmp_path):
    shutil.copytree(workdirs[0], tmp_path / "a[1]")
    shutil.copytree(workdirs[1], tmp_path / "a1")
    folders, _ = runs.find([str(tmp_path / "a[1]")])
    assert [path.name for path in folders] == ["a[1]"]


def test_a_folder_without_a_run_may_be_named_beside_runs(workdirs, tmp_path):
    named = [str(tmp_path / "a"), str(tmp_path / "old_report")]
    shutil.copytree(workdirs[0], named[0])
    pathlib.Path(named[1]).mkdir()
    folders, others = runs.find(named)  # as a shell passes runs/* on
    assert ([*map(str, folders)], [*map(str, others)]) == (named[:1], named[1:])
    with pytest.raises(ConfigError, match=r"no run is in .*old_report, .*other"):
        (tmp_path / "other").mkdir()
        runs.find([named[1], str(tmp_path / "other")])


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
            r"protocol: field 'head_classes': unknown classes .*'mine'; known:",
        ),
        (
            lambda r: r["stages"]["evaluate"]["protocol"].update(classes="/dev/stdin.json"),
            r"protocol: field 'classes' must be classes, not a file of them",
        ),
        (lambda r: r["stages"]["train"].update(seconds=True), r"'seconds' must be int or float"),
    ],
)
def test_a_foreign_record_is_named_by_file_and_field(workdirs, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        report.write([edited(workdirs[0], tmp_path / "run", change)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_that_cannot_be_read_are_named(workdirs, tmp_path):
    with pytest.raises(ConfigError, match="nowhere finds no folder"):
        report.write([str(tmp_path / "nowhere")], tmp_path / "out")
    with pytest.raises(ConfigError, match="name the workdirs"):
        report.write([], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/results\.json: no such file"):
        report.write([str(tmp_path / "empty")], tmp_path / "out")
    torn = edited(workdirs[0], tmp_path / "torn", same)
    with (pathlib.Path(torn) / "train" / log.METRICS_FILE).open("a") as file:
        file.write('{"step": 5')
    with pytest.raises(ConfigError, match=r"train/metrics\.jsonl, line 5: not JSON"):
        report.write([torn], tmp_path / "out")
