"""Files are found once each, and lists are read back exactly."""

import contextlib
import json
import os
import shlex
import socket

import data_files
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtda_jax.data import DataError, listing, load
from rtda_jax.data.check import check_data

CLASSES = "cityscapes19"

# Any name that a file system accepts; characters that are special in lists are more frequent.
PIECES = st.sampled_from(
    ["#", " ", "\t", "\n", "\r", '"', "\\", "\ufeff", ".png", ".", "a", "b", "\udcff", "\u2028"]
)
# The only surrogates in names are U+DC80 to U+DCFF, for bytes that are not UTF-8.
SIGNS = st.one_of(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
)
NAMES = st.lists(st.one_of(PIECES, SIGNS), min_size=1, max_size=6).map("".join)
KEYS = st.lists(st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join)), min_size=1, unique=True)
often = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(walk, root):
    return [os.path.relpath(path, root) for path in walk.files]


def why(walk, root):
    return {os.path.relpath(item.path, root): item.why for item in walk.left_out}


def test_every_file_is_either_read_or_named(tmp_path):
    """The files that are read and those that are left out are together all files."""
    present = ["a.png", "b.JPG", "c.jfif", "d.heic", "e.txt", "noext", "sub/f.gif", "sub/g.avif",
               ".h.png", "sub/deep/i.tiff", "j.PNG.bak"]  # fmt: skip
    for name in present:
        touch(tmp_path / name)
    walk = listing.walk(tmp_path)
    assert sorted([*names(walk, tmp_path), *why(walk, tmp_path)]) == sorted(present)
    assert why(walk, tmp_path) == {
        "d.heic": ".heic is not read",
        "e.txt": ".txt is not read",
        "noext": "a name without extension is not read",
        "sub/g.avif": ".avif is not read",
        ".h.png": "hidden",
        "j.PNG.bak": ".bak is not read",
    }


def test_links_are_followed_once_and_real_folders_keep_their_names(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root / "z_real" / "a.png")
    touch(elsewhere / "b.png")
    touch(elsewhere / "sub" / "c.png")
    (root / "a_link").symlink_to("z_real")  # sorts before the real folder
    (root / "self").symlink_to(".")
    (root / "z_real" / "up").symlink_to("..")
    (root / "other_disk").symlink_to(elsewhere)
    (root / "twice").symlink_to(elsewhere / "sub")
    (root / "gone").symlink_to("nowhere")
    (root / "gone.png").symlink_to("nowhere.png")  # reading it is an error
    walk = listing.walk(root)
    assert names(walk, root) == [
        "gone.png", "other_disk/b.png", "other_disk/sub/c.png", "z_real/a.png",
    ]  # fmt: skip
    reasons = why(walk, root)
    assert reasons["gone"] == "dangling link to nowhere"
    assert reasons["self"] == f"the same folder as {root}"
    assert reasons["a_link"] == f"the same folder as {root / 'z_real'}"
    assert sorted(reasons) == ["a_link", "gone", "self", "twice", "z_real/up"]


def test_only_links_cost_a_look_at_what_they_lead_to(tmp_path, monkeypatch):
    """A look at each of a million files would take minutes on a network disk."""
    looked, scandir = [], os.scandir

    class Entry:
        def __init__(self, entry):
            self.entry = entry

        def __getattr__(self, name):
            return getattr(self.entry, name)

        def stat(self):
            looked.append(self.entry.name)
            return self.entry.stat()

    @contextlib.contextmanager
    def scanning(folder):
        with scandir(folder) as entries:
            yield map(Entry, entries)

    for name in ("a.png", "b.txt", "c/d.png"):
        touch(tmp_path / name)
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    monkeypatch.setattr(os, "scandir", scanning)
    walk = listing.walk(tmp_path)
    assert names(walk, tmp_path) == ["a.png", "c/d.png", "link.png"]
    assert looked == ["gone.txt", "link.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_unreadable_folders_are_named(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "locked" / "b.png")
    (tmp_path / "locked").chmod(0)
    walk = listing.walk(tmp_path)
    (tmp_path / "locked").chmod(0o700)
    assert why(walk, tmp_path) == {"locked": "permission denied"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "a.png")
    touch(tmp_path / "locked" / "b.png")
    scan = os.scandir

    def refused(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    walk = listing.walk(tmp_path)
    assert names(walk, tmp_path) == ["a.png"]
    assert why(walk, tmp_path) == {"locked": "permission denied"}


def test_what_would_hang_is_not_opened(tmp_path):
    touch(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        walk = listing.walk(tmp_path)
    assert names(walk, tmp_path) == ["a.png"]
    assert set(why(walk, tmp_path).values()) == {"neither a file nor a folder"}


def test_the_folder_of_results_is_not_entered(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "out" / "b.png")
    walk = listing.walk(tmp_path, without=tmp_path / "out")
    assert names(walk, tmp_path) == ["a.png"] and not walk.left_out


@pytest.mark.parametrize("name", ["run [2]", "what?", "all*", "[abc]", "a[!b]c", "mes données {1}"])
def test_an_existing_path_is_no_pattern(tmp_path, name):
    touch(tmp_path / name / "x" / "a_1.png")
    touch(tmp_path / "run 2" / "b.png")
    touch(tmp_path / "b" / "b.png")
    for pattern in (name, f"{name}/x", f"{name}/x/a_*.png", str(tmp_path / name)):
        found = listing.find(tmp_path, pattern, how_to_get="")
        assert list(found.files.values()) == [str(tmp_path / name / "x" / "a_1.png")], pattern
    (file,) = listing.find(tmp_path, f"{name}/x/a_1.png", how_to_get="").files.values()
    assert file.endswith("a_1.png")


def test_a_pattern_reads_each_real_file_once(tmp_path):
    touch(tmp_path / "x" / "a.png")
    touch(tmp_path / "x" / "b.txt")
    (tmp_path / "x" / "again").symlink_to(".")
    found = listing.find(tmp_path, "**/*", how_to_get="")
    assert found.files == {"x/a": str(tmp_path / "x" / "a.png")}
    assert {left.why for left in found.left_out} >= {".txt is not read"}


def test_an_empty_folder_says_what_lies_there_instead(tmp_path):
    touch(tmp_path / "im" / "a.heic")
    with pytest.raises(
        DataError, match=r"holds no \.png.*1 left out, \.heic is not read: .*a\.hei"
    ):
        listing.find(tmp_path, "im", how_to_get="get it")


def test_two_kinds_of_one_name_are_refused_with_advice(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"a\.png: has the same name as .*a\.gif; .*/\*\.png"):
        listing.find(tmp_path, ".", how_to_get="")


def test_sentences_name_a_few_and_count_all():
    left = [listing.LeftOut(f"{i}.heic", ".heic is not read") for i in range(5)]
    assert listing.sentences([*left, listing.LeftOut("x", "hidden")]) == (
        "5 left out, .heic is not read: 0.heic, 1.heic, 2.heic, ...",
        "1 left out, hidden: x",
    )


def test_the_data_set_and_its_check_say_what_is_left_out(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    touch(tmp_path / "images" / "photo.heic")
    (tmp_path / "labels" / "002.png").rename(tmp_path / "labels" / "003.png")
    (tmp_path / "images" / "002.png").rename(tmp_path / "images" / "002.tmp")
    data = load(spec, data_dir=tmp_path, classes=CLASSES)
    assert len(data) == 2
    assert [note.split(": ")[0] for note in data.notes] == [
        "1 left out, .tmp is not read",
        "1 left out, .heic is not read",
        "1 left out, a label without an image",
    ]
    lines = []
    manifest = check_data(
        spec, data_dir=tmp_path, classes=CLASSES, out=tmp_path / "out", say=lines.append
    )
    assert set(data.notes) <= set(manifest["warnings"])
    assert all(any(note in line for line in lines) for note in data.notes)


@often
@given(keys=KEYS, data=st.data())
def test_any_list_is_read_back_exactly(tmp_path, keys, data):
    keys = [key for key in keys if key.strip()]
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
    path = tmp_path / "list.txt"
    listing.write_list(path, dict.fromkeys(chosen, "a reason\nof two lines"), title="a title")
    assert listing.choose(keys, listing.read_list(path), what="list") == chosen


@often
@given(keys=st.lists(st.from_regex(r"[a-z #.0-9-]{1,9}", fullmatch=True), min_size=1, unique=True))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_names_as_people_and_editors_write_them(tmp_path, keys, end, encoding):
    keys = [key for key in keys if key.strip() == key]
    path = tmp_path / "list.txt"
    path.write_bytes((end.join(f"{key}.png" for key in keys) + end).encode(encoding))
    keys_of_files = tuple(keys)
    assert listing.choose(keys_of_files, listing.read_list(path), what="list") == keys


@pytest.mark.parametrize(
    ("line", "keys", "chosen"),
    [
        ("frame 1.png", ["frame", "frame 1"], "frame 1"),
        ("2016-01-20 08.00.45.png", ["2016-01-20 08.00.45", "2016-01-20"], "2016-01-20 08.00.45"),
        ("#12.png", ["#12", "12"], "#12"),
        (" lead", [" lead", "lead"], " lead"),
        (" lead", ["lead"], "lead"),
        ("images/a.png labels/a.png", ["a", "b"], "a"),
        ("images/a.png labels/b.png", ["a", "b"], "a"),
        ("images/a.png,labels/b.png", ["a", "b"], "a"),
        ("a,b.png", ["a,b", "a"], "a,b"),
        ("cafe\u0301.png", ["caf\u00e9"], "caf\u00e9"),
        ("a.png", ["a.png", "a"], "a.png"),
        ("x/a_leftImg8bit.png", ["x/a", "y/b"], "x/a"),
        ("a\tbroken for some reason", ["a"], "a"),
        ('"quoted"name.png', ['"quoted"name'], '"quoted"name'),
        ("v1.2", ["v1.2", "v1"], "v1.2"),
        ("x\\a.png", ["x/a", "y/a"], "x/a"),
        ("C:\\data\\x\\a.png \t", ["x/a", "y/a"], "x/a"),
        ("x\\a.png", ["x\\a", "x/a"], "x\\a"),
        ("/data/images/x/a.png", ["a", "x/a", "z/x/b"], "x/a"),
        ("./x/a.png", ["x/a", "y/x/b"], "x/a"),
        ("x/a.png", ["a", "y/x/a"], "y/x/a"),
        ("#12.png", ["x/#12", "y/12"], "x/#12"),
    ],
)
def test_what_a_line_means(line, keys, chosen):
    assert listing.choose(keys, [line], what="l", suffix="_leftImg8bit") == [chosen]


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("frame 1.png", "no image"),
        ("v1.3", "no image"),
        ("a", "2 images"),
        ("z/a.png", "no image"),  # the image of that name lies in another folder
        ("z\\a.png", "no image"),
    ],
)
def test_a_line_that_names_no_image_or_several_is_an_error(line, count):
    keys = ["frame", "v1", "x/a", "y/a"]
    with pytest.raises(DataError, match=f"l: lists .*, but {count} ha"):
        listing.choose(keys, [line], what="l")


def test_comments_and_empty_lines_name_nothing():
    assert listing.choose(["a"], ["# a", "", "  ", "#b.png", "#x/a.png", "a"], what="l") == ["a"]


def test_no_text_is_refused(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(DataError, match=r"l\.txt: a list of names is a text file"):
        listing.read_list(tmp_path / "l.txt")


def test_repeated_lines_are_used_once_and_said(tmp_path):
    spec = data_files.folders(tmp_path, count=3)
    (tmp_path / "l.txt").write_text("001\n000.png\n001.png\n001\n")
    data = load({**spec, "list": "l.txt"}, data_dir=tmp_path, classes="cityscapes19")
    assert data.keys == ("000", "001")
    assert any("2 lines repeat an image" in note for note in data.notes)


@pytest.mark.parametrize("text", ["", "\n \r\n\t\n", "# 000\n"])
def test_a_list_of_nothing_is_refused(tmp_path, text):
    spec = data_files.folders(tmp_path, count=2)
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DataError, match="the list names none of its 2 images"):
        load({**spec, "list": "l.txt"}, data_dir=tmp_path, classes="cityscapes19")


def test_names_that_look_the_same_are_a_pair(tmp_path):
    """Names may be decomposed, because macOS packs an accent as a separate character."""
    data_files.save(tmp_path / "images" / "cafe\u0301.png", data_files.picture(0))
    data_files.save(tmp_path / "labels" / "caf\u00e9.png", data_files.ids(0, [7]))
    spec = {"name": "folders", "images": "images", "labels": "labels"}
    assert load(spec, data_dir=tmp_path, classes="cityscapes19").keys == ("caf\u00e9",)


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
    (said,) = shlex.split(next(line for line in lines if "quarantine=" in line).split("=")[1])
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
    "\n".join(lines).encode("ascii")  # a terminal shows them
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["quarantine"].keys() == {
        name
    }
    clean = {**spec, "quarantine": str(tmp_path / "out" / "quarantine.txt")}
    assert load(clean, data_dir=tmp_path, classes="cityscapes19").keys == ("y",)
