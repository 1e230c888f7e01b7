import fractions
import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from helpers import SIZE, config, pixelwise, write_workdir
from PIL import Image

from rtda_jax import evaluate
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


def run(tmp_path, source, *, shown=("train_ids",), resolution="native", **fields):
    out = tmp_path / "out"
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
        "huge.png": "above 50,000,000 pixels",
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


def test_names_that_differ_in_their_suffix_keep_it(tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        Image.fromarray(noise(8, 8)).save(tmp_path / name)
    assert sorted(str(i.name) for i in inputs.find(tmp_path).files) == ["a.jpg", "a.png", "b"]


def test_results_are_not_predicted_again(tmp_path, classify):
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.png")
    for _ in range(2):
        run(tmp_path, tmp_path)
    assert [p.name for p in (tmp_path / "out" / "train_ids").rglob("*.png")] == ["a.png"]


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


def write_video(path, frames, rate=fractions.Fraction(10)):
    writer = video.Writer(path)
    for time, frame in enumerate(frames):
        writer.write(frame, video.Frame(frame, time, 1 / rate, rate))
    writer.close()


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
        inputs.find(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no image or video"):
        inputs.find(tmp_path)


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
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 4, done.stderr
    assert "bad.png: zero bytes" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 pictures" in done.stdout
    predict_one = evaluate.predictor(networks.choose(made, tmp_path / "run").models)
    expected = np.asarray(predict_one(image, size=SIZE))
    out = tmp_path / "run" / "predict"
    np.testing.assert_array_equal(result(out / "train_ids" / "good.png"), expected)
    assert result(out / "side_by_side" / "good.png").shape[1] == 2 * SIZE[1]
    assert len(np.unique(expected)) > 2
