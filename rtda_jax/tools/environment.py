"""The process and the machine of a run: its memory allocator, versions, devices and commit.

JAX is imported only inside of functions, because `keep_freed_memory` must be called before that.
"""

import ast
import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import traceback
import types
import warnings
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

# Numbers of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event, with the seconds it took
LARGE_COMPILATION = 5.0  # seconds; shorter ones are many, and `retire_holes` takes 0.2 s
LARGEST_PIECE, SMALLEST_PIECE = 2**26, 2**16  # bytes


def keep_freed_memory() -> None:
    """Tells glibc to keep large buffers that are freed; must be called before JAX starts.

    A compiled step allocates and frees the same hundreds of megabytes each time. By default glibc
    returns them to the system, and their pages fault again in every step. If the memory is kept,
    the step on two cores is about a sixth faster. Without glibc, this function does nothing.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(M_ARENA_MAX, 1)


@functools.cache
def retire_holes_after_compilations() -> None:
    """Makes JAX call `retire_holes` after every compilation that takes more than five seconds."""
    import jax  # not earlier, because `keep_freed_memory` must come before

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED and duration_secs > LARGE_COMPILATION:
            retire_holes()

    jax.monitoring.register_event_duration_secs_listener(compiled)


def retire_holes() -> int:
    """Returns the pages of the heap's free memory to the system and takes its holes out of use.

    The compilation of a step frees more than a gigabyte in a hundred thousand pieces, and glibc
    keeps them in sorted lists. Each buffer that the step then frees is sorted into such a list,
    which took a seventh of the time of a step on small images. So the large holes are allocated
    and never freed or touched: they occupy addresses, but no memory. The next compilation takes
    new addresses.

    Returns:
      how many pieces were allocated; without glibc, none.
    """
    libc = _glibc()
    if libc is None:
        return 0
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.malloc_trim(0)
    end, pieces, size = libc.sbrk(0), 0, LARGEST_PIECE
    while size >= SMALLEST_PIECE:
        piece = libc.malloc(size)
        if piece is not None and piece + size <= end:
            pieces += 1
        else:  # no hole of this size is left: the heap has grown, and the piece is at its end
            libc.free(piece)
            size //= 2
    return pieces


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


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


def is_ours(error: Exception, *others: pathlib.Path) -> bool:
    """Returns whether an error arose in the package or the shipped configurations.

    Args:
      error: what loading a configuration raised.
      *others: files that do not count: the configuration itself, and the caller.
    """
    place = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    folders = (pathlib.Path(rtda_jax.__file__).parent.resolve(), configs_folder().resolve())
    ours = any(place.is_relative_to(folder) for folder in folders)
    return ours and place not in [other.resolve() for other in others]


def place_of(error: Exception, path: pathlib.Path) -> str:
    """Returns the file of a configuration and the last of its lines in an error's traceback."""
    file = os.path.realpath(path)
    passed = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        passed.append((error.filename or "", error.lineno))
    lines = [line for name, line in passed if os.path.realpath(name) == file]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def user_cache() -> pathlib.Path:
    """Returns the folder for caches of this user: $XDG_CACHE_HOME or ~/.cache."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


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


def user_code(path: pathlib.Path, module: types.ModuleType) -> tuple[str, list[str]]:
    """Returns a hash of a user's configuration and of the modules that it imports from its folder.

    Comments, docstrings and formatting do not count.

    Args:
      path: the file of the configuration; `provide_configs` was given its folder.
      module: what the file became.

    Returns:
      The hash, and the names of files in the folder that are not read, because the modules of
      these names that it imports are shipped ones.
    """
    folder, hidden = path.resolve().parent, set[str]()
    waiting, codes = {"": module}, dict[str, str]()
    while waiting:
        name, source = waiting.popitem()
        with warnings.catch_warnings(action="ignore"):  # Python has shown them
            tree = ast.parse(pathlib.Path(source.__file__ or "").read_bytes())
        codes[name] = _without_docstrings(tree)
        for other in _imported(tree, source.__package__ or "") & sys.modules.keys() - codes.keys():
            place = folder.joinpath(*other.removeprefix("configs.").split("."))
            ours = configs_folder() / f"{place.name}.py"
            file = pathlib.Path(getattr(sys.modules[other], "__file__", None) or "")
            file = file.parent.resolve() / file.name
            if file in (place.parent / ours.name, place / "__init__.py"):
                waiting[other] = sys.modules[other]
            elif file == ours.resolve() and (folder / ours.name).is_file():
                hidden.add(ours.name)
    digest = hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest()
    return digest[:8], sorted(hidden - {path.name})


def _imported(tree: ast.Module, package: str) -> set[str]:
    """Returns the names of all modules that a module of a package may import."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(name, package) if node.level else name
            names |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names]
    names = {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
    return {name for name in names if name.partition(".")[0] != "rtda_jax"}


def _without_docstrings(tree: ast.Module) -> str:
    """Returns the code of a module without docstrings, comments and its formatting."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


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
