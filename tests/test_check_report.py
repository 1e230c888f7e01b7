"""What check_data says and shows helps the user further, and is of this check."""

import json
import re

import data_files
import numpy as np
import pytest
from PIL import Image

from rtda_jax.data import DataError, load
from rtda_jax.data.check import check_benchmark, check_data

CLASSES = "cityscapes19"


def check(root, spec, **options):
    """Returns the lines of a check and its manifest."""
    lines = []
    options = {"classes": CLASSES, "out": root / "out", **options}
    manifest = check_data(spec, data_dir=root, say=lines.append, **options)
    return lines, manifest


def with_suffixes(root, image, *labels):
    """Writes three examples whose image and label names end differently."""
    for i, name in enumerate(("Monaco/frame 0000", "Monaco/frame 0001", "Rome/r_0002")):
        data_files.save(root / "images" / f"{name}{image}.png", data_files.picture(i))
        for label in labels:
            data_files.save(root / "labels" / f"{name}{label}.png", data_files.ids(i, range(34)))
    return {"name": "folders", "images": "images", "labels": "labels"}


@pytest.mark.parametrize(
    ("image", "labels", "flags"),
    [
        ("_rgb", ["_labelIds"], "{}image_suffix=_rgb {}label_suffix=_labelIds"),
        ("_rgb", ["_raw"], "{}image_suffix=_rgb {}label_suffix=_raw"),
        ("", ["_gt"], "{}label_suffix=_gt"),
        (" rgb", [""], "{}image_suffix=' rgb'"),
        ("A", ["B"], "{}image_suffix=A {}label_suffix=B"),
        ("_i", ["_col", "_ids"], "{}image_suffix=_i {}label_suffix=_col"),
    ],
)
def test_names_that_end_differently_are_answered_with_the_suffixes(tmp_path, image, labels, flags):
    spec = with_suffixes(tmp_path, image, *labels)
    advice = flags.replace("{}", "--config.benchmark.source.")
    with pytest.raises(DataError, match="3 of 3 images have no label") as error:
        load(spec, data_dir=tmp_path, classes=CLASSES, role="source")
    assert str(error.value).endswith(advice)
    lines, manifest = check(tmp_path, spec, role="source")
    assert manifest["usable"] == 0
    (warning,) = (line for line in lines if "no image has a label" in line)
    assert warning.endswith(advice)
    assert ("(or _ids)" in warning) == (len(labels) == 2)
    assert not [line for line in lines if "ENet" in line or "of all pixels" in line]
    assert not [line for line in lines if "quarantine=" in line]
    wanted = dict(re.findall(r"source\.(\w+)=('.*'|\S+)", advice))
    spec |= {name: value.strip("'") for name, value in wanted.items()}
    assert len(load(spec, data_dir=tmp_path, classes=CLASSES)) == 3


def test_names_that_have_nothing_in_common_get_no_suffixes(tmp_path):
    for i, name in enumerate(("abc", "def", "ghi")):
        data_files.save(tmp_path / "images" / f"{name}.png", data_files.picture(i))
        data_files.save(tmp_path / "labels" / f"{i}.png", data_files.ids(i, range(34)))
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    with pytest.raises(DataError, match="for the field quarantine"):
        load(spec, data_dir=tmp_path, classes=CLASSES)
    assert not [line for line in check(tmp_path, spec)[0] if "suffix" in line]


def test_a_missing_label_is_called_by_its_name(tmp_path):
    spec = with_suffixes(tmp_path, "", "_gt") | {"label_suffix": "_gt"}
    (tmp_path / "labels" / "Rome" / "r_0002_gt.png").unlink()
    lines, _ = check(tmp_path, spec, role="eval")
    assert "  quarantined Rome/r_0002: missing pair: there is no label Rome/r_0002_gt.png" in lines
    file = tmp_path / "out" / "quarantine.txt"
    assert lines[-1].endswith(f"without these examples: --config.benchmark.eval.quarantine={file}")


def test_the_sheet_of_an_earlier_check_does_not_stay(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    lines, _ = check(tmp_path, spec)
    assert lines[-1].endswith(": manifest.json, quarantine.txt, sheet.png")
    assert (tmp_path / "out" / "sheet.png").exists()
    for i in range(2):
        (tmp_path / "images" / f"{i:03d}.png").write_bytes(b"")
    lines, _ = check(tmp_path, spec)
    assert lines[-1].endswith(": manifest.json, quarantine.txt")
    assert not (tmp_path / "out" / "sheet.png").exists()


def test_labels_of_another_meaning_are_doubted_and_their_ids_named(tmp_path):
    """All of them are ignored, so that each one alone would only be called broken."""
    spec = data_files.folders(tmp_path, count=3, among=range(7))
    lines, manifest = check(tmp_path, spec)
    assert manifest["usable"] == 0
    assert manifest["quarantine"]["001"].endswith("all-ignored label (ids 0..6)")
    (doubt,) = manifest["warnings"]
    assert doubt.startswith("labelling 'cityscapes_ids': only ids 0..6 occur, all ignored by it; ")
    assert "train_ids" in doubt and "gta5_ids" not in doubt
    assert f"  warning: {doubt}" in lines


def test_a_few_labels_without_a_class_are_only_broken(tmp_path):
    spec = data_files.folders(tmp_path, count=4, among=[7, 8])
    data_files.save(tmp_path / "labels" / "003.png", np.zeros(data_files.SIZE, np.uint8))
    _, manifest = check(tmp_path, spec)
    assert manifest["usable"] == 3 and manifest["warnings"] == []


def test_each_set_is_called_by_its_role_and_folder(tmp_path):
    spec = data_files.folders(tmp_path, count=2)
    spec |= {"images": str(tmp_path / "images")}
    benchmark = {"classes": CLASSES, "source": spec, "source_eval": None, "target_labelled": None,
                 "target": {**spec, "use": "unlabelled"}, "eval": spec}  # fmt: skip
    lines = []
    out = tmp_path / "out"
    found = check_benchmark(benchmark, data_dir=tmp_path, out=out, say=lines.append)
    for role in ("source", "target", "eval"):
        assert f"{role}: {tmp_path}/images: 2 of 2 examples are usable" in lines
        assert json.loads((out / role / "manifest.json").read_text()) == found[role]


def test_the_rows_of_a_sheet_differ_by_the_names_of_their_images(tmp_path):
    """A long folder left no room for them beside it."""
    folder = "a folder with a name that is longer than a panel is wide, " * 2
    for name in ("one", "two"):
        data_files.save(tmp_path / folder / f"{name}.png", data_files.picture(0))
    check(tmp_path, {"name": "folders", "images": folder, "use": "unlabelled"})
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        sheet = np.asarray(picture)
    line, height = 19, 240
    first, second = (sheet[23 + k * (line + height + 4) :][:line] for k in range(2))
    assert (first < 128).any() and (second < 128).any() and (first != second).any()
    assert (sheet[:line] < 128).any()
    assert (sheet[line - 1] == 255).all()  # no comma is cut
