import json
import os
import pathlib
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from helpers import SIZE, Pixelwise, config, write_workdir
from PIL import Image
from predictions import noise, result, run

from rtda_jax import evaluate
from rtda_jax.data import pictures as picture_files
from rtda_jax.data.labels import define
from rtda_jax.deploy import media, networks, predict
from rtda_jax.errors import ConfigError, DataError

MAIN = pathlib.Path(__file__).parents[1] / "main.py"


def test_every_kind_of_image_is_predicted_at_its_own_size(tmp_path, classify):
    """Writes images of odd sizes, modes, EXIF rotation and Unicode names at several depths."""
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
    exif[0x0112] = 6  # EXIF says that the camera was turned
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
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert len(record["failed"]) == 4
    files = [f"train_ids/{name}.png" for name in "az"]
    assert record["results"] == ["legend.png", "predict.json", *files]


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
    # An earlier prediction within the input folder is not taken for an image.
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

    write = media.Writer.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(media.Writer, "write", die)
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
    assert result(out / "train_ids" / "a.png").shape == (8, 8)


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


def test_a_picture_of_another_size_compiles_no_network(tmp_path, classify, monkeypatch):
    traces = []
    call = Pixelwise.__call__

    def traced(module, images, **options):
        traces.append(images.shape)
        return call(module, images, **options)

    monkeypatch.setattr(Pixelwise, "__call__", traced)
    (tmp_path / "in").mkdir()
    for side in range(40, 80, 8):
        Image.fromarray(noise(side, 2 * side)).save(tmp_path / "in" / f"{side}.png")
    out = run(tmp_path, tmp_path / "in", resolution="eval")
    for side in range(40, 80, 8):
        assert result(out / "train_ids" / f"{side}.png").shape == (side, 2 * side)
    assert traces.count((1, *SIZE, 3)) == 1


def test_a_sliding_window_reads_an_image_smaller_than_itself(tmp_path, classify):
    image = noise(20, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    slide = {"eval__mode": "slide", "eval__window": (32, 64), "eval__stride": (16, 32)}
    out = run(tmp_path, tmp_path / "a.png", **slide)
    np.testing.assert_array_equal(result(out / "train_ids" / "a.png"), classify(image))
    with pytest.raises(ConfigError, match="leave pixels unseen"):
        run(tmp_path, tmp_path / "a.png", **{**slide, "eval__stride": (64, 64)})


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


def test_label_ids_are_those_of_cityscapes(tmp_path, classify):
    image = noise(32, 64)
    Image.fromarray(image).save(tmp_path / "a.png")
    out = run(tmp_path, tmp_path / "a.png", shown=("label_ids",))
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = np.array(ids, np.uint8)[classify(image)]
    np.testing.assert_array_equal(result(out / "label_ids" / "a.png"), expected)
    rows = [{"name": name, "label_colours": [(k, 0, 0)]} for k, name in enumerate("ab")]
    red = define(rows, encoding="rgb")
    with pytest.raises(ConfigError, match="--view=label_ids: labels in 'own classes' are colours"):
        run(tmp_path, tmp_path / "a.png", shown=("label_ids",), benchmark__classes=red)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shown": ("overlays",)}, "unknown view 'overlays'; known: colours, label_ids, overlay"),
        ({"shown": ()}, "--view names nothing to write; known: overlay"),
        ({"resolution": "full"}, "unknown resolution 'full'; known: eval, native"),
    ],
)
def test_unknown_options_are_refused(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, tmp_path, **fields)


def test_the_command_predicts_what_it_can_and_says_what_it_could_not(tmp_path):
    """A network loaded from its workdir alone predicts what the evaluation's predictor predicts."""
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
        cwd=tmp_path,  # any other folder
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


def test_the_image_is_resized_as_evaluation_resizes_it():
    from rtda_jax.data import geometry

    image = np.asarray(Image.fromarray(noise(90, 130)).resize((131, 91)))
    ours = picture_files.resized(image, (32, 64)).astype(int)
    theirs = geometry.resized(image, (32, 64)).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.8


def test_the_rate_counts_reading_and_writing_but_not_the_first_picture(monkeypatch):
    now, lock = [50.0], threading.Lock()

    def takes(seconds):
        with lock:
            now[0] += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    pixels = np.zeros((2, 3, 3), np.uint8)
    names = [pathlib.PurePath(str(number)) for number in range(4)]
    stream = [media.Picture(media.Input(str(n), n, "image"), pixels) for n in names]
    stream.insert(2, media.Picture(stream[0].item, problem="broken"))
    written = []

    class Writer:
        def write(self, pair):
            written.append(pair)
            if pair[1] is not None:
                takes(0.5)

    tally = predict._predict(
        stream, lambda picture: takes(2.0) or 1, Writer(), total=5, out=pathlib.Path("out")
    )
    assert len(written) == 5
    assert (tally.count, list(tally.failed.values())) == (4, ["broken"])
    # Three pictures after the first take 2 s each, and four are written in 0.5 s each.
    assert tally.rate == pytest.approx(3 / (3 * 2 + 4 * 0.5))


def test_only_rates_that_were_measured_are_printed():
    with_io, alone = (
        "; 3.2 a second with reading and writing",
        "; 57.8 a second in the network alone",
    )
    assert predict._speeds(3.21, 57.84) == with_io + alone
    assert predict._speeds(None, 57.84) == alone
    assert predict._speeds(None, None) == ""


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("photo.jgp", {}, "photo.jgp: no such file or folder"),
        (".", {}, "holds no image or video"),
        ("a.png", {"views": ["overlay", "overly"]}, "unknown view 'overly'"),
        ("a.png", {"resolution": "full"}, "unknown resolution 'full'"),
    ],
)
def test_the_input_is_looked_for_before_the_networks(
    tmp_path, monkeypatch, source, options, message
):
    monkeypatch.chdir(tmp_path)
    options = {"views": ["overlay"], "resolution": "eval", **options}
    with pytest.raises((ConfigError, DataError), match=message):
        predict.run(pytest.fail, source=source, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
