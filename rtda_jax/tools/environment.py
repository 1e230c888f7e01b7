"""The process and the machine of a run: versions, devices and commit.

JAX is imported only to describe devices, because the command line sets up memory before that.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import types
from typing import Any

import rtda_jax

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow",  # or, on x86-64, the package without CUDA
    "tensorflow-cpu",
)


def commit() -> str | None:
    """Returns the git commit of the code, with `+` if it has changes; None outside its own clone.

    The environment with the package may be inside a clone of another project, whose commit says
    nothing about this code.
    """
    clone = pathlib.Path(rtda_jax.__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(clone), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")).resolve() != clone:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def configs_folder() -> pathlib.Path:
    """Returns the folder of configurations: inside an installed package, beside it in a clone."""
    package = pathlib.Path(rtda_jax.__file__).parent
    return next(p for p in (package / "configs", package.parent / "configs") if p.is_dir())


def provide_configs(*folders: pathlib.Path) -> None:
    """Makes the shipped configurations importable as `configs.NAME`, as they are in a clone.

    Args:
      *folders: folders of the user, whose files become importable in the same way.
    """
    package = types.ModuleType("configs")
    package.__path__ = [str(folder) for folder in (configs_folder(), *folders)]
    sys.modules["configs"] = package


def trained_folder() -> pathlib.Path:
    """Returns the folder of the trained networks that come with the package, each published."""
    return pathlib.Path(rtda_jax.__file__).parent / "deploy" / "trained"


def code_digest() -> str:
    """Returns a hash of the package's and the configurations' source files.

    A clone and the wheel that is built from it have the same hash.
    """
    package, configs = pathlib.Path(rtda_jax.__file__).parent, configs_folder()
    sources = {f"configs/{p.relative_to(configs).as_posix()}": p for p in configs.rglob("*.py")}
    sources |= {p.relative_to(package).as_posix(): p for p in package.rglob("*.py")}
    digest = hashlib.sha256()
    for name, path in sorted(sources.items()):
        digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def program() -> str:
    """Returns how this program was called: `python main.py`, or `rtda-jax`."""
    name = pathlib.Path(sys.argv[0]).name
    if name == "__main__.py":
        return "python -m rtda_jax"
    return f"python {name}" if name.endswith(".py") else name


def command() -> str:
    """Returns the command line of this process, quoted for a shell."""
    return f"{program()} {shlex.join(sys.argv[1:])}".rstrip()


def packages() -> dict[str, str]:
    """Returns the versions of the installed packages that influence the results."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def versions() -> dict[str, str]:
    """Returns the versions of Python, this project and the packages it computes with."""
    return {"python": platform.python_version(), "rtda_jax": rtda_jax.__version__, **packages()}


def cores() -> int:
    """Returns the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Returns versions and machine, as `results.json` records them."""
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "devices": [f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"],
        "cores": cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
