"""What a job writes into a list, the next job reads back exactly."""

import json

import data_files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtda_jax.data import DataError, lists, load
from rtda_jax.data.check import check_data

# Anything that a file system takes as a name, with what lists trip over more often than by chance.
PIECES = st.sampled_from(
    ["#", " ", "\t", "\n", "\r", '"', "\\", "\ufeff", ".png", ".", "a", "b", "\udcff", "\u2028"]
)
SIGNS = st.characters(exclude_characters="/\0", exclude_categories=())
NAMES = st.lists(st.one_of(PIECES, SIGNS), min_size=1, max_size=6).map("".join)
KEYS = st.lists(st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join)), min_size=1, unique=True)
often = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@often
@given(keys=KEYS, data=st.data())
def test_any_list_is_read_back_exactly(tmp_path, keys, data):
    keys = [key for key in keys if key.strip()]
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    path = tmp_path / "list.txt"
    lists.write(path, dict.fromkeys(chosen, "a reason\nof two lines"), title="a title")
    assert lists.choose(keys, lists.read(path), what="list") == chosen


@often
@given(keys=st.lists(st.from_regex(r"[a-z #.0-9-]{1,9}", fullmatch=True), min_size=1, unique=True))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_names_as_people_and_editors_write_them(tmp_path, keys, end, encoding):
    keys = [key for key in keys if key.strip() == key]
    path = tmp_path / "list.txt"
    path.write_bytes((end.join(f"{key}.png" for key in keys) + end).encode(encoding))
    keys_of_files = tuple(keys)
    assert lists.choose(keys_of_files, lists.read(path), what="list") == keys


@pytest.mark.parametrize(
    ("line", "keys", "chosen"),
    [
        ("frame 1.png", ["frame", "frame 1"], "frame 1"),
        ("2016-01-20 08.00.45.png", ["2016-01-20 08.00.45", "2016-01-20"], "2016-01-20 08.00.45"),
        ("#12.png", ["#12", "12"], "#12"),
        (" lead", [" lead", "lead"], " lead"),
        (" lead", ["lead"], "lead"),
        ("images/a.png labels/a.png", ["a", "b"], "a"),
        ("a.png", ["a.png", "a"], "a.png"),
        ("x/a_leftImg8bit.png", ["x/a", "y/b"], "x/a"),
        ("a\tbroken for some reason", ["a"], "a"),
        ('"quoted"name.png', ['"quoted"name'], '"quoted"name'),
        ("v1.2", ["v1.2", "v1"], "v1.2"),
    ],
)
def test_what_a_line_means(line, keys, chosen):
    assert lists.choose(keys, [line], what="l", suffix="_leftImg8bit") == [chosen]


@pytest.mark.parametrize(
    ("line", "count"), [("frame 1.png", "no image"), ("v1.3", "no image"), ("a", "2 images")]
)
def test_a_line_that_names_no_image_or_several_is_an_error(line, count):
    keys = ["frame", "v1", "x/a", "y/a"]
    with pytest.raises(DataError, match=f"l: lists .*, but {count} ha"):
        lists.choose(keys, [line], what="l")


def test_comments_and_empty_lines_name_nothing():
    assert lists.choose(["a"], ["# a", "", "  ", "#b.png", "a"], what="l") == ["a"]


def test_no_text_is_refused(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(DataError, match=r"l\.txt: a list of names is a text file"):
        lists.read(tmp_path / "l.txt")


def test_repeated_lines_are_used_once_and_said(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    (tmp_path / "l.txt").write_text("001\n000.png\n001.png\n001\n")
    data = load({**spec, "list": "l.txt"}, data_dir=tmp_path, classes="cityscapes19")
    assert data.keys == ("000", "001")
    assert any("2 lines repeat an image" in note for note in data.notes)


@pytest.mark.parametrize("name", ["#12", " lead", "trail ", '"q"', "tab\there", "a\nb", "frame 1"])
def test_quarantined_names_stay_out(tmp_path, monkeypatch, name):
    for i, key in enumerate((name, "12", "frame")):
        data_files.save(tmp_path / "data" / "images" / f"{key}.png", data_files.picture(i))
        data_files.save(tmp_path / "data" / "labels" / f"{key}.png", data_files.ids(i, range(34)))
    (tmp_path / "data" / "images" / f"{name}.png").write_bytes(b"")
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    monkeypatch.chdir(tmp_path)
    lines = []
    check_data(
        spec, data_dir=tmp_path / "data", classes="cityscapes19", out="chk", say=lines.append
    )
    said = next(line for line in lines if "field quarantine" in line).split(" quarantine to ")[1]
    data = load({**spec, "quarantine": said}, data_dir=tmp_path / "data", classes="cityscapes19")
    assert sorted(data.keys) == ["12", "frame"]


def test_names_that_are_no_utf_8_go_all_the_way(tmp_path):
    name = b"stra\xdfe".decode(errors="surrogateescape")
    for folder, pixels in (("images", data_files.picture(0)), ("labels", data_files.ids(0, [7]))):
        data_files.save(tmp_path / folder / "x.png", pixels).rename(
            tmp_path / folder / f"{name}.png"
        )
        data_files.save(tmp_path / folder / "y.png", pixels)
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    (tmp_path / "images" / f"{name}.png").write_bytes(b"")
    lines = []
    manifest = check_data(
        spec, data_dir=tmp_path, classes="cityscapes19", out=tmp_path / "out", say=lines.append
    )
    assert list(manifest["quarantine"]) == [name]
    "\n".join(lines).encode("ascii")  # any terminal shows them
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["quarantine"].keys() == {
        name
    }
    clean = {**spec, "quarantine": str(tmp_path / "out" / "quarantine.txt")}
    assert load(clean, data_dir=tmp_path, classes="cityscapes19").keys == ("y",)
