import fractions
import functools
import http.server
import itertools
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import types
import zlib

import numpy as np
import pytest
from helpers import SIZE, config, pixelwise, write_workdir
from PIL import Image

from rtda_jax import evaluate
from rtda_jax.data import pictures as picture_files
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import inputs, networks, predict, results, video
from rtda_jax.errors import ConfigError, DataError

MAIN = pathlib.Path(__file__).parents[1] / "main.py"
KEY = results.Key(class_set("cityscapes19").names, class_set("cityscapes19").colours)


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width]


@pytest.fixture
def classify(monkeypatch):
    """What the network of `run` makes of an image, in NumPy."""
    monkeypatch.setattr(predict, "REPEAT_FOR", 0.01)
    _, scores = pixelwise()
    return lambda image: scores(image).argmax(-1)


def run(tmp_path, source, *, out=None, shown=("train_ids",), resolution="native", **fields):
    out = out or tmp_path / "out"
    chosen = networks.Networks(
        (pixelwise()[0],), ("train",), "evaluate", tmp_path, config(**fields).lock()
    )
    record = predict.run(chosen, source=source, out=out, views=shown, resolution=resolution)
    assert record == json.loads((out / "predict.json").read_text())
    return out


def result(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_kind_of_image_is_predicted_at_its_own_size(tmp_path, classify):
    """Odd sizes, grey, RGBA, palette, 16 bits, EXIF rotation, unicode names, any depth."""
    pixels, folder = noise(37, 51), tmp_path / "in"
    (folder / "straße" / "日本").mkdir(parents=True)
    rgb = Image.fromarray(pixels)
    rgb.save(folder / "odd.png")
    rgb.save(folder / "straße" / "日本" / "ö.png")
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])
    Image.fromarray(alpha).save(folder / "alpha.png")
    coarse = rgb.quantize(8)
    coarse.info["transparency"] = bytes([0, 255, 0])
    coarse.save(folder / "palette.png", transparency=bytes([0, 255, 0]))
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    rgb.save(folder / "turned.png", exif=exif)
    (folder / "notes.txt").write_text("no image")

    out = run(tmp_path, folder)
    grey = pixels[..., :1].repeat(3, 2)
    expected = {
        "odd": pixels,
        "straße/日本/ö": pixels,
        "grey": grey,
        "alpha": pixels,
        "palette": np.asarray(coarse.convert("RGBA").convert("RGB")),
        "deep": grey,
        "turned": np.rot90(pixels, -1),
    }
    found = {str(p.relative_to(out / "train_ids").with_suffix("")) for p in out.rglob("*.png")
             if "train_ids" in str(p)}  # fmt: skip
    assert found == set(expected)
    for name, image in expected.items():
        np.testing.assert_array_equal(
            result(out / "train_ids" / f"{name}.png"), classify(image), err_msg=name
        )


def test_broken_files_are_named_and_the_others_predicted(tmp_path, classify, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "z"):
        Image.fromarray(noise(40, 40)).save(folder / f"{name}.png")
    Image.fromarray(noise(400, 400)).save(folder / "torn.jpg")
    torn = (folder / "torn.jpg").read_bytes()
    (folder / "torn.jpg").write_bytes(torn[: len(torn) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all")
    header = (folder / "a.png").read_bytes()
    huge = header[:16] + (60000).to_bytes(4, "big") * 2 + header[24:]
    huge = huge[:29] + zlib.crc32(huge[12:29]).to_bytes(4, "big") + huge[33:]
    (folder / "huge.png").write_bytes(huge)
    with pytest.raises(DataError) as error:
        run(tmp_path, folder)
    said = str(error.value)
    assert error.value.exit_code == 4
    assert "4 of 6 files" in said
    for name, problem in {
        "torn.jpg": "truncated or damaged",
        "empty.png": "zero bytes",
        "text.jpg": "neither PNG, JPEG",
        "huge.png": f"above {picture_files.MAX_PIXELS:,} pixels",
    }.items():
        assert f"{folder / name}: {problem}" in said
    assert sorted(p.name for p in (tmp_path / "out" / "train_ids").iterdir()) == ["a.png", "z.png"]
    assert len(json.loads((tmp_path / "out" / "predict.json").read_text())["failed"]) == 4


def test_views_of_a_prediction():
    image, classes = noise(24, 40), np.arange(24 * 40).reshape(24, 40) % 19
    classes = classes.astype(np.uint8)
    colours = np.array(KEY.colours)[classes]
    np.testing.assert_array_equal(results.colours(image, classes, KEY), colours)
    mixed = np.rint(0.5 * colours + 0.5 * image)
    np.testing.assert_array_equal(results.overlay(image, classes, KEY), mixed)
    both = results.side_by_side(image, classes, KEY)
    np.testing.assert_array_equal(both[:24, :40], image)
    np.testing.assert_array_equal(both[:24, 40:], colours)
    legend = both[24:].reshape(-1, 3)
    for colour in KEY.colours:
        assert (legend == colour).all(1).any()


def results_of(names, shown=("overlay", "train_ids")):
    """The results of files of these names, by the file."""
    items = [
        inputs.Input(name, pathlib.PurePath(name).with_suffix(""), inputs.kind_of(name))
        for name in names
    ]
    distinct = results.distinct(items, shown)
    return {item.source: results.files_of(item, shown) for item in distinct}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "b/a.png"], ["a.png", "b/a.png"]),
        (["a.png", "a.jpg", "b.png"], ["a.png.png", "a.jpg.png", "b.png"]),
        (["a.png", "a.jpg", "a.png.png"], ["a.png.png", "a.jpg.png", "a.png.png.png"]),
        (["A.png", "a.jpg"], ["A.png.png", "a.jpg.png"]),
        (["e\u0301.png", "\u00e9.jpg"], ["e\u0301.png.png", "\u00e9.jpg.png"]),
        (["a.mp4", "a.png"], ["a.mp4", "a.png"]),
        (["a.mp4", "a/000000.png"], ["a.mp4.mp4", "a/000000.png.png"]),
        (["a.mp4", "a.mov"], ["a.mp4.mp4", "a.mov.mp4"]),
        (["a.jpg", "a.png/b.png"], ["a.jpg.png", "a.png/b.png.png"]),
    ],
)
def test_no_result_replaces_another(names, expected):
    named = results_of(names)
    assert [named[name][0] for name in names] == [f"overlay/{name}" for name in expected]
    every = [file for files in named.values() for file in files]
    places = [file.rstrip("/") for file in every]
    assert len(set(places)) == len(places)
    assert not any(a.startswith(f"{b}/") for a in places for b in places)


def test_results_that_cannot_be_told_apart_are_refused():
    with pytest.raises(DataError, match="would have the same name"):
        results_of(["a.png", "A.PNG"])


def test_both_pictures_of_a_name_are_predicted(tmp_path, classify):
    folder = tmp_path / "in"
    folder.mkdir()
    files = {"a.png": noise(8, 8), "a.bmp": noise(8, 8, 1), "a.png.png": noise(8, 8, 2)}
    for name, pixels in files.items():
        Image.fromarray(pixels).save(folder / name)
    out = run(tmp_path, folder)
    for name, pixels in files.items():
        np.testing.assert_array_equal(result(out / "train_ids" / f"{name}.png"), classify(pixels))


@pytest.mark.parametrize("place", ["in/out", "in"])
def test_results_are_not_predicted_again(tmp_path, classify, place):
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(32, 32)).save(tmp_path / "in" / "a.png")
    for _ in range(2):
        run(tmp_path, tmp_path / "in", out=tmp_path / place, shown=("train_ids", "overlay"))
    # An earlier prediction in the folder of another one's input is no picture either.
    run(tmp_path, tmp_path / "in", out=tmp_path / "other")
    for out in (tmp_path / place, tmp_path / "other"):
        assert [p.name for p in (out / "train_ids").rglob("*.png")] == ["a.png"]


def test_files_that_no_prediction_wrote_are_left_alone(tmp_path, classify):
    out = tmp_path / "out"
    (out / "train_ids").mkdir(parents=True)
    (out / "train_ids" / "a.png").write_text("mine")
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"holds train_ids/a\.png, which this job would overwrit"):
        run(tmp_path, tmp_path / "a.png")
    assert (out / "train_ids" / "a.png").read_text() == "mine"
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == ["train_ids"]
    (out / "train_ids" / "a.png").unlink()
    for _ in range(2):
        run(tmp_path, tmp_path / "a.png")


def test_a_prediction_that_was_killed_is_done_again(tmp_path, classify, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise(8, 8)).save(tmp_path / "in" / name)

    def die(writer, prediction):
        write(writer, prediction)
        raise KeyboardInterrupt

    write = results.Writer.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(results.Writer, "write", die)
        run(tmp_path, tmp_path / "in")
    assert list((tmp_path / "out" / "train_ids").iterdir())
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["finished"] is False
    run(tmp_path, tmp_path / "in")


def test_an_older_release_listed_no_results(tmp_path, classify):
    out = tmp_path / "out"
    (out / "train_ids").mkdir(parents=True)
    (out / "train_ids" / "a.png").write_text("of an older release")
    (out / "predict.json").write_text('{"workdir": "x", "views": ["train_ids"], "files": 1}')
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    run(tmp_path, tmp_path / "a.png")


def test_what_is_left_out_is_named(tmp_path, classify, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.bmp", "c.gif", "d.jfif", "e.JPE", "f.tif"):
        image = Image.fromarray(noise(16, 16))
        image.save(folder / name, format=None if name[0] in "abcf" else "JPEG")
    for name in ("g.HEIC", "h.heic", "notes.txt"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    out = run(tmp_path, folder)
    assert len(list((out / "train_ids").iterdir())) == 6
    sentences = json.loads((out / "predict.json").read_text())["left_out"]
    assert sentences[0].startswith("2 left out, .heic is not read: ")
    assert "g.HEIC" in sentences[0]
    assert sentences[1].endswith("notes.txt")
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in sentences)


def test_names_that_are_not_utf8_are_predicted(tmp_path, classify, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"stra\xdfe.png")
    try:
        Image.fromarray(noise(16, 16)).save(tmp_path / "a.png")
        (tmp_path / "a.png").rename(folder / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(DataError, match="zero bytes"):
        run(tmp_path, folder)
    np.testing.assert_array_equal(
        result(tmp_path / "out" / "train_ids" / name), classify(noise(16, 16))
    )
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert f"train_ids/{name}" in record["results"]


def test_the_image_is_resized_as_evaluation_resizes_it():
    from rtda_jax.data import geometry

    image = np.asarray(Image.fromarray(noise(90, 130)).resize((131, 91)))
    ours = inputs.resized(image, (32, 64)).astype(int)
    theirs = geometry.resized(image, (32, 64)).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.8


def test_at_the_evaluations_size_the_result_has_the_images_size(tmp_path, classify):
    image = np.zeros((50, 30, 3), np.uint8)
    image[:, 15:] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    out = run(tmp_path, tmp_path / "a.png", resolution="eval", shown=("train_ids", "overlay"))
    made, expected = result(out / "train_ids" / "a.png"), classify(image)
    assert made.shape == (50, 30)
    assert result(out / "overlay" / "a.png").shape == (50, 30, 3)
    np.testing.assert_array_equal(made[:, :13], expected[:, :13])
    np.testing.assert_array_equal(made[:, 17:], expected[:, 17:])


def test_a_sliding_window_reads_an_image_smaller_than_itself(tmp_path, classify):
    image = noise(20, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    slide = {"eval__mode": "slide", "eval__window": (32, 64), "eval__stride": (16, 32)}
    out = run(tmp_path, tmp_path / "a.png", **slide)
    np.testing.assert_array_equal(result(out / "train_ids" / "a.png"), classify(image))
    with pytest.raises(ConfigError, match="leave pixels unseen"):
        run(tmp_path, tmp_path / "a.png", **{**slide, "eval__stride": (64, 64)})


RATE = fractions.Fraction(10)


def write_video(path, frames, times=None):
    like = video.Frame(frames[0], 0, 1 / RATE, RATE)
    with video.writing(path, like=like, size=frames[0].shape[:2]) as write:
        for time, frame in zip(times or range(len(frames)), frames, strict=True):
            write(frame, like._replace(time=time))


def test_a_video_keeps_its_frames_times_and_size(tmp_path, classify):
    pytest.importorskip("av")
    frames = [np.full((48, 64, 3), (20 * i, 255 - 20 * i, 100), np.uint8) for i in range(12)]
    write_video(tmp_path / "clip.mp4", frames)
    read = list(video.read(tmp_path / "clip.mp4"))
    assert len(read) == 12
    for frame, pixels in zip(read, frames, strict=True):
        assert np.abs(frame.pixels.astype(int) - pixels).max() < 12  # H.264 is lossy
    out = run(tmp_path, tmp_path / "clip.mp4", shown=("train_ids", "colours"))
    shown = list(video.read(out / "colours" / "clip.mp4"))
    assert [float(f.time * f.base) for f in shown] == [float(f.time * f.base) for f in read]
    for number, (frame, coloured) in enumerate(zip(read, shown, strict=True)):
        classes = result(out / "train_ids" / "clip" / f"{number:06d}.png")
        np.testing.assert_array_equal(classes, classify(frame.pixels))
        palette = np.array(KEY.colours)[classes]
        assert np.abs(coloured.pixels.astype(int) - palette).max() < 40
    assert not list(out.rglob("*.partial"))


def test_a_damaged_video_is_named_and_its_beginning_kept(tmp_path, classify):
    pytest.importorskip("av")
    write_video(tmp_path / "in" / "clip.mp4", [noise(64, 96, seed) for seed in range(30)])
    (tmp_path / "in" / "empty.mp4").write_bytes(b"")
    (tmp_path / "in" / "text.mp4").write_text("no video")
    data = bytearray((tmp_path / "in" / "clip.mp4").read_bytes())
    (tmp_path / "in" / "torn.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError) as error:
        run(tmp_path, tmp_path / "in", shown=("overlay",))
    for name in ("empty.mp4: zero bytes", "text.mp4: no video", "torn.mp4: no video"):
        assert name in str(error.value)
    assert len(list(video.read(tmp_path / "out" / "overlay" / "clip.mp4"))) == 30


def shown_at(times, *, step=1):
    frames = [types.SimpleNamespace(pts=time) for time in times]
    return [time for _, time in video.continuous(frames, step=step)]


def test_times_start_at_zero_and_only_go_forward():
    assert shown_at([5, 6, 7]) == [0, 1, 2]
    assert shown_at([0, 33, 500, 533], step=33) == [0, 33, 500, 533]
    assert shown_at([None, None, None], step=40) == [0, 40, 80]
    # Three joined recordings, of which the last one has a gap.
    assert shown_at([9000, 9040, 9080, 0, 40, 80, 20, 60, 200], step=40) == [
        0, 40, 80, 120, 160, 200, 240, 280, 420,
    ]  # fmt: skip
    # A frame that is late by less than one frame is no new recording.
    assert shown_at([0, 40, 39, 80], step=40) == [0, 40, 41, 80]


def test_joined_recordings_of_a_dash_cam_keep_their_length(tmp_path, classify):
    av = pytest.importorskip("av")
    parts = []
    for number in range(2):
        with av.open(str(tmp_path / f"{number}.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(noise(48, 64, number), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append((tmp_path / f"{number}.ts").read_bytes())
    (tmp_path / "joined.mpg").write_bytes(b"".join(parts))
    times = [float(f.time * f.base) for f in video.read(tmp_path / "joined.mpg")]
    assert len(times) == 20
    np.testing.assert_allclose(np.diff(times), 0.1, atol=1e-3)


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat", "sdp"])
def test_a_playlist_that_calls_itself_a_video_reads_no_other_file(tmp_path, classify, kind):
    pytest.importorskip("av")
    write_video(tmp_path / "secret.mp4", [noise(48, 64)] * 3)
    playlists = {
        "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat": "ffconcat version 1.0\nfile 'secret.mp4'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n",
    }
    (tmp_path / "clip.mp4").write_text(playlists[kind])
    with pytest.raises(DataError, match=r"clip\.mp4: no video that can be read"):
        list(video.read(tmp_path / "clip.mp4"))
    assert video.length(tmp_path / "clip.mp4") == 1


@pytest.fixture
def server(tmp_path):
    """A web server of a folder with clip.mp4 in it; the URL of the folder."""
    (tmp_path / "web").mkdir()
    write_video(tmp_path / "web" / "clip.mp4", [noise(48, 64, seed) for seed in range(8)])
    handler = functools.partial(QuietHandler, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_stream_is_recorded(tmp_path, classify, server, capsys):
    pytest.importorskip("av")
    out = run(tmp_path, f"{server}/clip.mp4", shown=("colours", "train_ids"))
    name = f"127.0.0.1_{server.rpartition(':')[2]}_clip.mp4"
    recording = out / "colours" / f"{name}.mp4"
    assert f"{recording} can be watched while it grows" in capsys.readouterr().out
    frames = list(video.read(tmp_path / "web" / "clip.mp4"))
    assert len(list(video.read(recording))) == len(frames) == 8
    for number, frame in enumerate(frames):
        classes = result(out / "train_ids" / name / f"{number:06d}.png")
        np.testing.assert_array_equal(classes, classify(frame.pixels))


def test_a_recording_ends_by_a_signal_without_an_error(tmp_path, classify, monkeypatch):
    pytest.importorskip("av")

    def endless(source):
        for time in itertools.count():
            if time == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield video.Frame(noise(32, 48), time, 1 / RATE, RATE)

    monkeypatch.setattr(video, "stream", endless)
    out = run(tmp_path, "rtsp://user:secret@camera/live", shown=("overlay",))
    record = json.loads((out / "predict.json").read_text())
    assert 10 < record["pictures"] < 60
    assert len(list(video.read(out / "overlay" / "camera_live.mp4"))) == record["pictures"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("97", r"there is no camera 97 \(/dev/video97\); cameras here: "),
        ("http://127.0.0.1:9/x", "no video that can be read"),
        ("rtsp://127.0.0.1:9/x", "no video that can be read"),
    ],
)
def test_a_stream_that_is_not_there_is_named(tmp_path, classify, source, message):
    pytest.importorskip("av")
    with pytest.raises(DataError, match=message):
        run(tmp_path, source, shown=("overlay",))


@pytest.mark.parametrize("source", ["file:///etc/passwd", "concat://a|b"])
def test_a_url_of_another_protocol_is_refused(tmp_path, classify, source):
    with pytest.raises(ConfigError, match=r"unknown protocol .*; known: http, https"):
        run(tmp_path, source)


def test_a_playlist_of_a_stream_reads_no_file(tmp_path, classify, server):
    pytest.importorskip("av")
    write_video(tmp_path / "secret.mp4", [noise(48, 64)] * 3)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/secret.mp4\n"
    (tmp_path / "web" / "list.m3u8").write_text(playlist + "#EXT-X-ENDLIST\n")
    with pytest.raises(DataError):
        list(video.stream(f"{server}/list.m3u8"))


def test_odd_sides_of_a_video_get_a_line(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "odd.mp4", [noise(33, 51)] * 2)
    assert next(video.read(tmp_path / "odd.mp4")).pixels.shape == (34, 52, 3)


def test_a_video_of_a_turned_phone_is_upright(tmp_path):
    """The track's matrix sends (x, y) to (-y, x), a quarter turn clockwise where y points down."""
    pytest.importorskip("av")
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, 32:] = 255
    write_video(tmp_path / "clip.mp4", [frame] * 2)
    data = (tmp_path / "clip.mp4").read_bytes()
    same = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    track = data.index(same, data.index(b"tkhd"))
    (tmp_path / "clip.mp4").write_bytes(data[:track] + turn + data[track + len(same) :])
    pixels = next(video.read(tmp_path / "clip.mp4")).pixels
    assert pixels.shape == (64, 32, 3)
    assert pixels[:30].max() < 40
    assert pixels[34:].min() > 215


def test_without_the_library_a_video_is_refused_and_images_are_not(tmp_path, classify, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    run(tmp_path, tmp_path / "a.png")
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"rtda_jax\[video\]"):
        run(tmp_path, tmp_path / "clip.mp4")


def test_queues_are_bounded_ordered_and_pass_errors_on():
    made, written = [], []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    with predict.behind(written.append, depth=2) as put:
        for i in predict.ahead(items(), depth=3):
            assert len(made) <= i + 1 + 3
            put(i)
            assert len(written) >= i - 2
    assert written == list(range(20))

    def broken():
        yield 1
        raise DataError("torn")

    with pytest.raises(DataError, match="torn"):
        list(predict.ahead(broken(), depth=2))

    def refuse(item):
        raise OSError("full")

    with pytest.raises(OSError, match="full"), predict.behind(refuse, depth=2) as put:
        put(1)


def test_a_result_that_can_not_be_written_is_named(tmp_path, classify):
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train_ids").write_text("in the way")
    with pytest.raises(DataError, match="out/train_ids"):
        run(tmp_path, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shown": ("overlays",)}, "unknown view 'overlays'; known: colours, overlay"),
        ({"resolution": "full"}, "unknown resolution 'full'; known: eval, native"),
    ],
)
def test_unknown_options_are_refused(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, tmp_path, **fields)


def test_no_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        inputs.find(str(tmp_path / "nothing"), out=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"holds no image or video \(1 left out, \.txt is not read"):
        inputs.find(str(tmp_path), out=tmp_path / "out")


def test_the_command_predicts_what_it_can_and_says_what_it_could_not(tmp_path):
    """A network of a workdir, known by the workdir alone, against evaluation's own predictor."""
    made = config()
    write_workdir(made, tmp_path / "run")
    (tmp_path / "in").mkdir()
    image = noise(*SIZE)
    Image.fromarray(image).save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    done = subprocess.run(
        [
            sys.executable,
            str(MAIN),
            "--job=predict",
            f"--workdir={tmp_path / 'run'}",
            f"--input={tmp_path / 'in'}",
            "--view=train_ids,side_by_side",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # any folder will do
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 4, done.stderr
    assert "bad.png: zero bytes" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\n1 picture in " in done.stdout
    predict_one = evaluate.predictor(networks.choose(made, tmp_path / "run").models)
    expected = np.asarray(predict_one(image, size=SIZE))
    out = tmp_path / "run" / "predict"
    np.testing.assert_array_equal(result(out / "train_ids" / "good.png"), expected)
    assert result(out / "side_by_side" / "good.png").shape[1] == 2 * SIZE[1]
    assert len(np.unique(expected)) > 2
