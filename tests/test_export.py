import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from helpers import config, pixelwise, softmax, write_workdir
from PIL import Image

from rtda_jax import evaluate
from rtda_jax.deploy import Networks, export, networks
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Protocol
from rtda_jax.models import MODELS, create_model
from rtda_jax.models.fold import fold
from rtda_jax.run import files
from rtda_jax.run.workdir import write_json
from rtda_jax.weights import load_pretrained

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "run_exported.py"
SIZE = (32, 64)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    made = config("fda").lock()
    write_workdir(made, workdir)
    about = export.run(networks.choose(made, workdir), out=workdir / "export")
    return made, workdir, about


def fresh(code, *arguments, cwd):
    """Runs code in an interpreter that cannot import this package, wherever it is installed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.modules['rtda_jax'] = None; " + code]
        + [str(a) for a in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )


def test_a_fresh_interpreter_gets_every_pixel_of_five_images(exported, tmp_path):
    made, workdir, about = exported
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 16, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    photos = [tmp_path / f"{i}.png" for i in range(5)]
    done = run_example(workdir / "export", *photos, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{i}.png" for i in range(5)]
    predict = evaluate.predictor(networks.choose(made, workdir).models)
    for i, image in enumerate(images):
        picture = Image.open(workdir / "export" / "predictions" / f"{i}.png")
        expected = np.asarray(predict(image, size=SIZE))
        assert len(np.unique(expected)) > 2
        np.testing.assert_array_equal(np.asarray(picture), expected)
        colours = np.array(about["colours"])[expected]
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours)


def run_example(*words, cwd):
    run = f"import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    return fresh(f"sys.argv[0] = 'run_exported.py'; {run}", *words, cwd=cwd)


def test_the_example_writes_where_it_is_told(exported, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "photos" / "a.jpg")
    done = run_example(
        exported[1] / "export", "photos/a.jpg", "--output", "results/day 1", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "results/day 1/a.png\n"
    assert (tmp_path / "results" / "day 1" / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png", "b/a.jpg"], "a.png and b/a.jpg would both be written to"),
        (["a.png", "--output=."], "the result of a.png would replace it"),
        (["absent.png"], "absent.png: cannot be read as an image: [Errno 2]"),
        (["broken.png"], "broken.png: cannot be read as an image: "),
        ([], "the following arguments are required: IMAGE"),
    ],
)
def test_the_example_refuses_with_a_sentence(exported, tmp_path, words, message):
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/a.jpg"):
        Image.new("RGB", (9, 7)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    before = (tmp_path / "a.png").read_bytes()
    done = run_example(exported[1] / "export", *words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("np.zeros((1, 32, 65, 3), np.uint8)", "[B, 32, 64, 3], got uint8 [1, 32, 65, 3]"),
        ("np.zeros((1, 32, 64, 3), np.float32)", "reads uint8 [B, 32, 64, 3], got float32"),
    ],
)
def test_a_wrong_size_or_dtype_is_a_sentence(exported, tmp_path, images, said):
    done = fresh(
        "import runpy; import numpy as np; sys.argv[0] = 'run'; "
        f"runpy.run_path({str(EXAMPLE)!r})['segment'](None, {images}, (32, 64))",
        exported[1] / "export",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_file_itself_refuses_them_too(exported):
    network = jax.export.deserialize(
        bytearray((exported[1] / "export/model.stablehlo").read_bytes())
    )
    with pytest.raises(ValueError, match="Shape mismatch"):
        network.call(np.zeros((1, 32, 65, 3), np.uint8))
    with pytest.raises(ValueError, match="Dtype mismatch"):
        network.call(np.zeros((1, *SIZE, 3), np.float32))


def test_any_batch_in_one_file_for_two_platforms(exported):
    made, workdir, _ = exported
    data = bytearray((workdir / "export" / "model.stablehlo").read_bytes())
    network = jax.export.deserialize(data)
    assert network.platforms == ("cpu", "cuda")
    images = np.random.default_rng(1).integers(0, 256, (3, *SIZE, 3), np.uint8)
    together = np.asarray(network.call(images))
    assert together.dtype == np.uint8
    predict = evaluate.predictor(networks.choose(made, workdir).models)
    for image, classes in zip(images, together, strict=True):
        np.testing.assert_array_equal(classes, predict(image, size=SIZE))


def test_what_the_file_is_stands_beside_it(exported):
    _, workdir, about = exported
    assert about == json.loads((workdir / "export" / "model.json").read_text())
    assert about["size"] == list(SIZE)
    assert about["classes"][0] == "road"
    assert about["fusion"] is None
    assert about["run"]["models"] == ["train"]
    assert about["normalisation"]["name"] == "imagenet"


def test_the_weights_load_into_the_network_again(exported):
    made, workdir, about = exported
    for name, model in zip(
        about["run"]["models"], networks.choose(made, workdir).models, strict=True
    ):
        empty = jax.tree.map(jnp.zeros_like, model.variables)
        path = workdir / "export" / about["weights"][name]["file"]
        loaded, report = load_pretrained(path, made.model.name, empty, part="all")
        assert report.normalisation == "imagenet"
        jax.tree.map(np.testing.assert_array_equal, loaded, model.variables)


@pytest.mark.parametrize("count", [1, 2])
def test_the_pixels_are_those_of_the_formula(count):
    """Two exported networks are fused by the mean of their softmax."""
    made = [pixelwise(seed) for seed in range(count)]
    images = np.random.default_rng(2).integers(0, 256, (2, 6, 9, 3), np.uint8)
    models = [model for model, _ in made]
    segment = export.segmenter(models, size=(6, 9), protocol=Protocol())
    network = export.lower(segment, size=(6, 9))
    shares = sum(softmax(scores(images)) for _, scores in made)
    np.testing.assert_array_equal(network.call(images), shares.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network_lowers_for_every_platform(name):
    module = create_model(name)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 128, 3))))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    models = [evaluate.Model(*fold(module, variables), "imagenet")]
    segment = export.segmenter(models, size=(64, 128), protocol=Protocol())
    network = export.lower(segment, size=(64, 128))
    assert network.platforms == export.PLATFORMS


@pytest.mark.slow
def test_a_saved_model_gets_every_pixel_without_jax(exported, tmp_path):
    made, workdir, _ = exported
    chosen = networks.choose(made, workdir)
    export.run(chosen, out=tmp_path, also=("saved_model",))
    images = np.random.default_rng(3).integers(0, 256, (5, *SIZE, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    done = fresh(
        "sys.modules['jax'] = None; import numpy as np, tensorflow as tf; "
        "f = tf.saved_model.load('saved_model').signatures['serving_default']; "
        "np.save('classes.npy', f(images=tf.constant(np.load('images.npy')))['classes'])",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    predict = evaluate.predictor(chosen.models)
    expected = [predict(image, size=SIZE) for image in images]
    np.testing.assert_array_equal(np.load(tmp_path / "classes.npy"), expected)


def test_an_unknown_format_is_refused(exported, tmp_path):
    settings, workdir, _ = exported
    with pytest.raises(ConfigError, match="unknown format 'tensorrt'; known: onnx, saved_model"):
        export.run(networks.choose(settings, workdir), out=tmp_path, also=("tensorrt",))


def test_onnx_files_are_described_and_checked(exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    settings, workdir, _ = exported
    chosen = networks.choose(settings, workdir)
    about = export.run(chosen, out=tmp_path, also=("onnx",))
    assert about["also"] == ["onnx"]
    assert about["onnx"] == {
        "files": ["model.onnx", "model.batch1.onnx"],
        "opset": 17,
        "agreement": 1.0,
    }
    images = np.random.default_rng(4).integers(0, 256, (3, *SIZE, 3), np.uint8)
    predict = evaluate.predictor(chosen.models)
    for file, batches in {"model.onnx": [images], "model.batch1.onnx": images[:, None]}.items():
        session = onnxruntime.InferenceSession(tmp_path / file)
        for batch in batches:
            (classes,) = session.run(["classes"], {"images": batch})
            expected = [predict(image, size=SIZE) for image in batch]
            np.testing.assert_array_equal(classes, expected)


def test_a_model_that_decides_otherwise_is_not_written(exported, tmp_path, monkeypatch):
    onnx = pytest.importorskip("rtda_jax.deploy.onnx")
    pytest.importorskip("onnxruntime")
    settings, workdir, _ = exported
    wrong = {**onnx.FUNCTIONS, "resize_half_pixel": onnx.FUNCTIONS["resize_corners"]}
    monkeypatch.setattr(onnx, "FUNCTIONS", wrong)
    with pytest.raises(ConfigError, match=r"model\.onnx puts [\d.]+% of the pixels in another"):
        export.run(networks.choose(settings, workdir), out=tmp_path, also=("onnx",))
    assert sorted(p.name for p in tmp_path.glob("model*")) == ["model.json", "model.stablehlo"]


def test_a_refused_format_leaves_the_others(exported, tmp_path, monkeypatch):
    settings, workdir, _ = exported

    def refuse(*_, **__):
        raise ConfigError("cannot")

    def make(*_, **__):
        return {"agreement": 1.0}, lambda out: (out / "model.tflite").write_text("written")

    formats = {"onnx": (refuse, ("model.onnx",)), "tflite": (make, ("model.tflite",))}
    formats = {name: export.Format(*form) for name, form in formats.items()}
    monkeypatch.setattr(export, "FORMATS", formats)
    for stale in ("", "; model.onnx there is of an earlier export"):
        with pytest.raises(ConfigError, match=f"cannot\n.* without --also=onnx{stale}$"):
            export.run(networks.choose(settings, workdir), out=tmp_path, also=("onnx", "tflite"))
        found = json.loads((tmp_path / "model.json").read_text())
        assert found["also"] == ["tflite"] and found["tflite"]["agreement"] == 1.0
        assert found["sha256"] == files.sha256(tmp_path / "model.stablehlo")
        missing = [name for name in found["results"] if not (tmp_path / name).exists()]
        assert not missing and ("model.onnx" in found["results"]) == bool(stale)
        (tmp_path / "model.onnx").write_text("old")
        write_json(tmp_path / "model.json", {**found, "results": [*found["results"], "model.onnx"]})


def test_without_its_package_onnx_is_refused_and_the_export_stays(exported, monkeypatch):
    settings, workdir, about = exported
    monkeypatch.setitem(sys.modules, "rtda_jax.deploy.onnx", None)
    monkeypatch.delattr("rtda_jax.deploy.onnx", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'rtda_jax\[onnx\]'"):
        export.run(networks.choose(settings, workdir), out=workdir / "export", also=("onnx",))
    assert json.loads((workdir / "export" / "model.json").read_text()) == about


@pytest.mark.slow
def test_a_tflite_model_gets_every_pixel(exported, tmp_path):
    settings, workdir, _ = exported
    about = export.run(networks.choose(settings, workdir), out=tmp_path, also=("tflite",))
    assert about["tflite"] == {"files": ["model.tflite"], "agreement": 1.0}
    assert (tmp_path / "model.tflite").read_bytes()[4:8] == b"TFL3"


def test_files_that_are_not_of_an_export_are_left_alone(exported, tmp_path):
    settings, workdir, _ = exported
    chosen = networks.choose(settings, workdir)
    for name in ("train.safetensors", "model.json"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name}, which this job would overwrite"):
            export.run(chosen, out=out)
        assert [path.name for path in out.iterdir() if path.name != ".lock"] == [name]
        assert (out / name).read_text() == "mine"
    for _ in range(2):
        export.run(chosen, out=tmp_path / "export")


class Plain(nn.Module):
    """A user's network of Flax's layers, without our base class."""

    num_classes: int = 19

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(8, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        logits = nn.Conv(self.num_classes, (1, 1))(x)
        size = (*images.shape[:3], self.num_classes)
        resized = jax.image.resize(logits, size, "nearest")
        return {"logits": resized, "coarse": logits, "feature": x}


def plain_networks(folder, **fields):
    """Returns two networks without a run, which a stage with these fields fuses."""
    models = []
    for seed in range(2):
        module = Plain()
        variables = module.init(jax.random.key(seed), jnp.zeros((1, *SIZE, 3)))
        models.append(evaluate.Model(module, variables, "imagenet"))
    settings = config(model__name="somebodys_own", **fields).lock()
    (folder / "config.json").write_text("{}")
    return Networks(tuple(models), ("a", "b"), "evaluate", folder, settings, 2 * ("somebodys_own",))


@pytest.mark.parametrize(
    ("fields", "fusion"),
    [
        ({"fusion": "logits"}, "mean logits"),
        ({"output": "coarse"}, "mean softmax"),
        ({"output": "coarse", "align": "corners", "fusion": "logits"}, "mean logits"),
        ({"mode": "slide", "window": SIZE, "stride": SIZE}, "mean softmax"),
    ],
)
def test_the_file_predicts_as_the_evaluation_does(tmp_path, monkeypatch, fields, fusion):
    monkeypatch.setitem(MODELS, "somebodys_own", Plain)
    chosen = plain_networks(tmp_path, **{f"eval__{name}": value for name, value in fields.items()})
    about = export.run(chosen, out=tmp_path / "export")
    assert about["fusion"] == fusion
    data = (tmp_path / "export" / about["file"]).read_bytes()
    images = np.random.default_rng(6).integers(0, 256, (2, *SIZE, 3), np.uint8)
    classes = jax.export.deserialize(bytearray(data)).call(images)
    whole = Protocol() if fields.get("mode") == "slide" else Protocol(**fields)
    expected, default = (
        [evaluate.predictor(chosen.models, protocol=p)(image, size=SIZE) for image in images]
        for p in (whole, Protocol())
    )
    np.testing.assert_array_equal(classes, expected)
    assert np.array_equal(expected, default) == (whole == Protocol())


def test_a_size_of_another_evaluation_stands_beside_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "somebodys_own", Plain)
    chosen = plain_networks(tmp_path, benchmark__eval_size=(16, 24))
    protocol = {"mode": "whole", "input_size": list(SIZE)}
    score = {"models": ["a", "b"], "miou": 0.3, "protocol": protocol}
    write_json(tmp_path / "results.json", {"stages": {"evaluate": score}})
    about = export.run(chosen, out=tmp_path / "export")
    assert about["input"]["shape"] == ["b", 16, 24, 3]
    assert (about["run"]["miou"], about["run"]["protocol"]) == (0.3, protocol)


def test_a_network_of_somebodys_own_is_exported(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "somebodys_own", Plain)
    module = Plain()
    variables = module.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    settings = config()
    settings.model.name = "somebodys_own"
    (tmp_path / "config.json").write_text("{}")
    model = evaluate.Model(module, variables, "imagenet")
    chosen = Networks(
        (model,), ("train",), "evaluate", tmp_path, settings.lock(), (settings.model.name,)
    )
    about = export.run(chosen, out=tmp_path / "export")
    weights = safetensors.numpy.load_file(tmp_path / "export" / "train.safetensors")
    kernel = variables["params"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(weights["Conv_0.weight"], kernel.transpose(3, 2, 0, 1))
    data = (tmp_path / "export" / about["file"]).read_bytes()
    images = np.random.default_rng(5).integers(0, 256, (2, *SIZE, 3), np.uint8)
    classes = jax.export.deserialize(bytearray(data)).call(images)
    predict = evaluate.predictor([model])
    for image, expected in zip(images, classes, strict=True):
        np.testing.assert_array_equal(predict(image, size=SIZE), expected)
