"""The process and the machine of a run: its memory allocator, versions, devices and commit.

JAX is imported only where devices are described, because `keep_freed_memory` comes before it.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import rtda_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu")

# Numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Tells glibc to keep large buffers that are freed; must be called before JAX starts.

    A compiled step allocates and frees the same hundreds of megabytes each time, which glibc maps
    and unmaps by default; pages that were given back fault again in every step. With the memory
    kept, the step on two cores is about a sixth faster. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # a Linux without glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
    mallopt(M_ARENA_MAX, 1)


def commit() -> str | None:
    """Returns the git commit of the code, with `+` if it has changes; None outside a clone."""
    folder = pathlib.Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def code_digest() -> str:
    """Returns a hash of the project's own source files, in a clone and outside one."""
    root, digest = pathlib.Path(rtda_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def command() -> str:
    """Returns the command line of this process."""
    return shlex.join(["python", pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])


def packages() -> dict[str, str]:
    """Returns the versions of the installed packages that decide what is computed."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def versions() -> dict[str, str]:
    """Returns the versions of Python, this project and the packages it computes with."""
    return {"python": platform.python_version(), "rtda_jax": rtda_jax.__version__, **packages()}


def describe() -> dict[str, Any]:
    """Returns versions and machine, as `results.json` records them."""
    import jax

    devices = jax.devices()
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "devices": [f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"],
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
