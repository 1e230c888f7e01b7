"""Frames of videos, cameras and streams, read and written."""

import functools
import http.server
import itertools
import json
import os
import signal
import struct
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image
from predictions import KEY, RATE, noise, result, run, write_video

from rtda_jax.deploy import video
from rtda_jax.errors import ConfigError, DataError


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


def test_frames_of_an_earlier_longer_video_do_not_stay(tmp_path, classify):
    pytest.importorskip("av")
    for count in (6, 2):
        write_video(tmp_path / "clip.mp4", [noise(32, 64, seed) for seed in range(count)])
        out = run(tmp_path, tmp_path / "clip.mp4", shown=("train_ids", "overlay"))
        (out / "train_ids" / "clip" / "notes.png").touch()  # of the user: it stays
    names = sorted(path.name for path in (out / "train_ids" / "clip").iterdir())
    assert names == ["000000.png", "000001.png", "notes.png"]


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


def test_a_further_recording_replaces_no_earlier_one(tmp_path, classify, monkeypatch):
    pytest.importorskip("av")
    shown = (("overlay", "train_ids"), ("overlay",), ("train_ids",))
    for count, views in zip((5, 3, 2), shown, strict=True):
        frames = [video.Frame(noise(32, 48), t, 1 / RATE, RATE) for t in range(count)]
        monkeypatch.setattr(video, "stream", lambda source, frames=frames: iter(frames))
        out = run(tmp_path, "rtsp://camera/live", shown=views)
    recordings = {p.stem: len(list(video.read(p))) for p in (out / "overlay").iterdir()}
    assert recordings == {"camera_live": 5, "camera_live-2": 3}
    pictures = {p.name: len(list(p.iterdir())) for p in (out / "train_ids").iterdir()}
    assert pictures == {"camera_live": 5, "camera_live-3": 2}
    assert "overlay/camera_live.mp4" in json.loads((out / "predict.json").read_text())["results"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("97", r"there is no camera 97 \(/dev/video97\); cameras here: "),
        ("http://127.0.0.1:9/x", "no video that can be read"),
        ("rtsp://127.0.0.1:9/x", "no video that can be read"),
    ],
)
def test_a_stream_that_is_not_there_is_named(tmp_path, classify, capsys, source, message):
    pytest.importorskip("av")
    with pytest.raises(DataError, match=message):
        run(tmp_path, source, shown=("overlay",))
    assert "can be watched" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["results"] == [
        "legend.png",
        "predict.json",
    ]


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


@pytest.mark.parametrize("honest", [True, False])
def test_large_frames_are_refused_before_they_are_decoded(honest, tmp_path, monkeypatch):
    """Where the container tells their size, and where only the stream inside does."""
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    write_video(path, [noise(48, 64)] * 3)
    if not honest:
        monkeypatch.setattr(video, "_check_size", lambda *_: None)
    monkeypatch.setattr(video, "MAX_PIXELS", 48 * 64)
    assert len(list(video.read(path))) == 3
    monkeypatch.setattr(video, "MAX_PIXELS", 48 * 64 - 1)
    words = "a frame of 64x48 is larger than 3,071 pixels" if honest else "no video that can be"
    with pytest.raises(DataError, match=rf"clip\.mp4: {words}"):
        list(video.read(path))


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
