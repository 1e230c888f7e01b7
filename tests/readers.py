"""Every reader of files from elsewhere, with the files that a fuzzer mutilates for it.

A reader gets one file of a folder in which everything else is right. It may return anything or
raise one of the errors that the program prints as a sentence.
"""

import contextlib
import io
import itertools
import json
import pathlib
import runpy
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import data_files
import numpy as np
import safetensors.numpy
from hypothesis import strategies as st
from mutilate import JSONS, changed, encoded, mutilated, mutilated_chunks, mutilated_members
from PIL import Image
from run_records import write_run

from configs import base
from rtda_jax.data import (
    decode,
    labels,
    listing,
    load,
    parts,
    pictures,
    pseudo,
    shards,
)
from rtda_jax.data.geometry import tf
from rtda_jax.deploy import media, networks
from rtda_jax.errors import ERRORS
from rtda_jax.report import records, runs
from rtda_jax.run import binding, checkpoint, log, workdir
from rtda_jax.run.files import read_npz
from rtda_jax.run.options import plain
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.weights import read_weights

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "run_exported.py"
FRAMES = 5  # frames of a video that are decoded


class Reader(NamedTuple):
    """A reader of one file of a folder.

    Attributes:
      name: of the file, relative to the folder.
      files: its mutilated content.
      read: reads the file at a path.
    """

    name: str
    files: st.SearchStrategy[bytes]
    read: Callable[[pathlib.Path], object]


def pictures_(folder: pathlib.Path) -> Reader:
    def read(path):
        pictures.header(path.read_bytes(), str(path))
        pictures.read(path)

    return Reader("a.png", st.one_of(mutilated(_pictures()), mutilated_chunks(_pngs())), read)


def labels_(folder: pathlib.Path) -> Reader:
    # TensorFlow is imported first, because its start takes memory and threads that the limits on
    # reading a label do not allow.
    tf.io.decode_png(tf.io.encode_png(np.zeros((1, 1, 3), np.uint16)), dtype=tf.uint16)

    def read(path):
        _each(
            lambda name: decode.raw_ids(path.read_bytes(), str(path), labels.LABELLINGS[name]),
            ("cityscapes_ids", "synthia_ids", "camvid32_colours", "synthia_ids_8bit"),
        )

    return Reader("a.png", st.one_of(mutilated(_pictures()), mutilated_chunks(_pngs())), read)


def pseudo_labels(folder: pathlib.Path) -> Reader:
    def read(path):
        pseudo.PseudoLabels(str(folder), ("a",), ("",), 19).decode(0)

    small = encoded(np.full((4, 6), 3, np.uint8), "PNG")
    return Reader("labels/a.png", st.one_of(mutilated([small]), mutilated_chunks(_pngs())), read)


def videos(folder: pathlib.Path) -> Reader:
    import av

    from rtda_jax.deploy import video

    av.logging.set_level(av.logging.PANIC)

    def read(path):
        video.length(path)
        for _ in itertools.islice(video.read(path), FRAMES):
            pass

    return Reader("a.mp4", mutilated([*_videos()]), read)


def lists(folder: pathlib.Path) -> Reader:
    lines = b'a/b\tbroken\n# note\n"c d"\n../../etc/passwd\n'

    def read(path):
        listing.choose(("a/b", "c d", "d"), listing.read_list(path), what="list.txt")

    utf_16 = "a/b\nd\n".encode("utf-16")
    return Reader("list.txt", mutilated([lines, utf_16, b"\xef\xbb\xbfd\r\n"]), read)


def manifests(folder: pathlib.Path) -> Reader:
    data_files.folders(folder / "target", count=2)
    spec = {"name": "folders", "images": "target/images", "use": "unlabelled"}
    target = load(spec, data_dir=folder, classes="cityscapes19")
    files = dict.fromkeys(target.keys, "00")
    text = json.dumps({"classes": "cityscapes19", "data": target.name, "files": files})

    def read(path):
        pseudo.load_pseudo(path.parent, target=target)

    return Reader("manifest.json", _json(text), read)


def classes(folder: pathlib.Path) -> Reader:
    rows = [{"name": "road", "colour": [1, 2, 3], "ids": [0, 1]}, {"name": "car", "ids": [7]}]
    text = json.dumps({"classes": rows, "ignore": [255], "encoding": "index"})
    return Reader("labels.json", _json(text), lambda path: labels.class_set(str(path)))


def pth(folder: pathlib.Path) -> Reader:
    # Written by torch.save of {"conv.weight": ones(2, 3), "n": arange(4)}, as in PyTorch 2.
    whole = _corpus("pth", "zipped.pth")
    flat = _corpus("pth", "flat.pth")
    files = st.one_of(mutilated([whole, flat]), mutilated_members(whole))
    return Reader("weights.pth", files, read_weights)


def safetensors_(folder: pathlib.Path) -> Reader:
    data = safetensors.numpy.save(_arrays(), {"format": "pt"})
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]

    def headed(text):
        return struct.pack("<Q", len(text)) + text.encode(errors="surrogatepass") + body

    files = st.one_of(mutilated([data]), changed(header.decode()).map(headed))
    return Reader("weights.safetensors", files, read_weights)


def npz(folder: pathlib.Path) -> Reader:
    def read(path):
        read_npz(path)
        read_weights(path)

    whole = _npz()
    return Reader("weights.npz", st.one_of(mutilated([whole]), mutilated_members(whole)), read)


def features(folder: pathlib.Path) -> Reader:
    names = "tensorflow_datasets.core.features"
    image = {"pythonClassName": f"{names}.image_feature.Image", "image": {"shape": {}}}
    whole = {
        "pythonClassName": f"{names}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "type": {"content": {}}}},
    }

    def read(path):
        shards.check_features(path.parent)

    return Reader("features.json", _json(json.dumps(whole)), read)


def part_files(folder: pathlib.Path) -> Reader:
    seeds = [b'[["a", 3, 2]]\nabcde', b"[]\n", b'[["a", 1, 0], ["b", 0, 1]]\nxy']
    return Reader("part", mutilated(seeds), lambda path: list(parts.read(path)))


def configurations(folder: pathlib.Path) -> Reader:
    config = plain(base.get_config())

    def read(path):
        def plan(folder):
            make_plan(networks.recorded(folder, defaults=base.unchanged), KINDS)

        _each(
            lambda read: read(folder), (plan, lambda folder: binding.claim(folder, config, KINDS))
        )

    return Reader("config.json", _json(json.dumps(config)), read)


def results(folder: pathlib.Path) -> Reader:
    write_run(folder, "fda_mbt", 0, skill=0.4)
    text = (folder / "results.json").read_text()

    def read(path):
        workdir.find_result(folder, {"step": 1})
        runs.load(folder, KINDS)

    return Reader("results.json", _json(text), read)


def metrics(folder: pathlib.Path) -> Reader:
    write_run(folder, "fda_mbt", 0, skill=0.4)
    line = b'{"step": 10, "loss": 0.5, "d_output_accuracy_source": 0.4, "x": null}\n'

    def read(path):
        with contextlib.redirect_stdout(io.StringIO()):
            _each(
                lambda read: read(),
                (
                    lambda: log.read(path),
                    lambda: runs.load(folder, KINDS),
                    lambda: log.truncate(path, after=10),
                ),
            )

    seeds = [3 * line, b'{"step": 1e400}', b'{"step": NaN}', b"[]\n", b'{"step": 1, "loss": "x"}']
    return Reader("beta_001/metrics.jsonl", mutilated(seeds), read)


def sheets(folder: pathlib.Path) -> Reader:
    write_run(folder, "fda_mbt", 0, skill=0.4)
    whole = (folder / "eval_mbt" / "predictions.png").read_bytes()

    def read(path):
        records.read_cells(path)

    files = st.one_of(mutilated([whole]), mutilated_chunks([whole]))
    return Reader("eval_mbt/predictions.png", files, read)


def speeds(folder: pathlib.Path) -> Reader:
    sizes = {"96x192": {"rows": {"host": {"seconds": [0.1, 0.2]}}}}
    ours = [{"sizes": sizes, "device": "cpu"}]
    text = json.dumps({"model": "x", "cores": 2, "commit": "0", "infer": {"ours": ours}})
    return Reader("speed.json", _json(text), lambda path: runs.speeds([path]))


def predictions(folder: pathlib.Path) -> Reader:
    text = json.dumps({"finished": True, "results": ["overlay/a.png", "train_ids/"]})

    def read(path):
        workdir.covers(workdir.written(path), "overlay/a.png")

    return Reader(media.RECORD, _json(text), read)


def exported(folder: pathlib.Path) -> Reader:
    about = {
        "file": "model.stablehlo",
        "size": [32, 64],
        "colours": [[1, 2, 3]] * 19,
        "resize": "bilinear with antialiasing, to size",
    }
    (folder / "model.stablehlo").write_bytes(b"not read here")
    example = runpy.run_path(str(EXAMPLE))

    return Reader("model.json", _json(json.dumps(about)), lambda _: example["describe"](folder))


def seals(folder: pathlib.Path) -> Reader:
    name = f"4/{checkpoint.MANIFEST}"
    (folder / "4").mkdir()
    (folder / "4" / "a").write_bytes(b"x")
    text = '{"a": [1, "00"], "default/d/x": [3, "ff"]}'
    return Reader(name, _json(text), lambda path: checkpoint.why_damaged(path.parent))


READERS: dict[str, Callable[[pathlib.Path], Reader]] = {
    "pictures": pictures_,
    "labels": labels_,
    "pseudo_labels": pseudo_labels,
    "videos": videos,
    "lists": lists,
    "manifests": manifests,
    "classes": classes,
    "pth": pth,
    "safetensors": safetensors_,
    "npz": npz,
    "features": features,
    "part_files": part_files,
    "configurations": configurations,
    "results": results,
    "metrics": metrics,
    "sheets": sheets,
    "speeds": speeds,
    "predictions": predictions,
    "exported": exported,
    "seals": seals,
}

CORPUS = pathlib.Path(__file__).parent / "corpus"


def _corpus(*parts: str) -> bytes:
    return CORPUS.joinpath(*parts).read_bytes()


def _each(read: Callable[[Any], object], things: Iterable[Any]) -> None:
    """Reads several things and raises the last of the named errors."""
    refusal = None
    for thing in things:
        try:
            read(thing)
        except ERRORS as error:
            refusal = error
    if refusal is not None:
        raise refusal


def _json(text: str) -> st.SearchStrategy[bytes]:
    """Generates JSON with changed values, and text that is no longer JSON."""
    values = changed(text).map(lambda t: t.encode(errors="surrogatepass"))
    return st.one_of(values, mutilated([text.encode(), *JSONS]))


def _arrays() -> dict[str, np.ndarray]:
    return {"conv.weight": np.ones((2, 3), np.float32), "n": np.arange(4), "h": np.ones(5, "f2")}


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **_arrays())
    return stream.getvalue()


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 12, 3), np.uint8)
    kinds = [
        encoded(rgb, "PNG"), encoded(rgb, "JPEG"), encoded(rgb, "JPEG", progressive=True),
        encoded(rgb, "WebP"), encoded(rgb, "WebP", lossless=True), encoded(rgb, "BMP"),
        encoded(rgb, "TIFF"), encoded(rgb, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="jpeg"), encoded(rgb, "GIF"), encoded(rgb, "PPM"),
        encoded(rgb[..., 0], "PNG"), encoded(rgb[..., 0].astype(np.uint16), "PNG"),
        encoded(rgb[..., 0].astype(np.uint16), "TIFF"),
    ]  # fmt: skip
    stream = io.BytesIO()
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = 6
    image.quantize(8).save(stream, "PNG", exif=exif)
    return [*kinds, stream.getvalue()]


def _pngs() -> list[bytes]:
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    return [encoded(grey, "PNG"), _pictures()[0]]


def _videos() -> list[bytes]:
    """Writes a video of four frames in each container that is read."""
    import av

    videos = []
    for name, codec in {
        "mp4": "libx264", "matroska": "libx264", "avi": "mjpeg", "mpegts": "mpeg2video",
        "asf": "msmpeg4v3", "webm": "libvpx-vp9",
    }.items():  # fmt: skip
        stream = io.BytesIO()
        with av.open(stream, "w", format=name) as container:
            video = container.add_stream(codec, rate=10)
            video.width, video.height = 32, 16
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(4):
                pixels = np.full((16, 32, 3), 60 * number, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(video.encode())
        videos.append(stream.getvalue())
    return videos
