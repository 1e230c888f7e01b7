"""The layout of the package: no import circles, no long files, what is imported where."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 400  # lines of a file
TENSORFLOW = ("tensorflow", "tensorflow_datasets")
UNIX = ("fcntl", "grp", "pty", "pwd", "resource", "termios")  # modules that Windows lacks


def module_name(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root=ROOT, package="rtda_jax"):
    """Returns module -> its text for a package in a folder."""
    paths = sorted((root / package).rglob("*.py"))
    return {module_name(path.relative_to(root)): path.read_text() for path in paths}


def imported(text, package):
    """Yields what a module imports, also inside of functions, by absolute dotted names.

    Args:
      text: the module's.
      package: the one that relative imports start from.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports(texts):
    """Returns module -> the modules of the same package that it imports."""
    graph = {}
    for module, text in texts.items():
        is_package = any(other.startswith(f"{module}.") for other in texts)
        package = module if is_package else module.rpartition(".")[0]
        names = set(imported(text, package))
        # A name is a submodule, or else something inside of the module before its last dot.
        known = {name if name in texts else name.rpartition(".")[0] for name in names}
        graph[module] = (known & texts.keys()) - {module}
    return graph


def circle(texts):
    """Returns modules that import one another in a ring, or nothing."""
    try:
        graphlib.TopologicalSorter(imports(texts)).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def long_modules(texts):
    """Returns the modules that are longer than `LONGEST` lines."""
    return [module for module, text in texts.items() if len(text.splitlines()) > LONGEST]


def tensorflow_modules(texts):
    """Returns the modules outside of rtda_jax/data that import TensorFlow anywhere."""
    return [
        module
        for module, text in texts.items()
        if not f"{module}.".startswith("rtda_jax.data.")
        and any(name.partition(".")[0] in TENSORFLOW for name in imported(text, module))
    ]


def unix_modules(texts):
    """Returns the modules that import what Windows lacks, or take an exit code of os, anywhere."""
    return [
        module
        for module, text in texts.items()
        if not {name.partition(".")[0] for name in imported(text, module)}.isdisjoint(UNIX)
        or "os.EX_" in text
    ]


def test_modules_do_not_import_one_another_in_a_circle():
    ring = circle(sources())
    assert not ring, " imports ".join(ring)


def test_files_are_not_long():
    long = long_modules(sources())
    assert not long, f"more than {LONGEST} lines: {', '.join(long)}"


def test_tensorflow_is_imported_by_the_data_alone():
    modules = tensorflow_modules(sources())
    assert not modules, f"import TensorFlow: {', '.join(modules)}"


def test_nothing_is_imported_that_windows_lacks():
    assert unix_modules(sources()) == []


@pytest.mark.parametrize(
    ("changed", "check", "modules"),
    [
        (
            {"rtda_jax.errors": "from rtda_jax.run import log\n"},
            circle,
            {"rtda_jax.errors", "rtda_jax.run.log"},
        ),
        (
            {"rtda_jax.errors": "def late():\n    from rtda_jax.run.log import say\n"},
            circle,
            {"rtda_jax.errors", "rtda_jax.run.log"},
        ),
        ({"rtda_jax.run.files": "from .log import say\n"}, circle, {"rtda_jax.run.log"}),
        ({"rtda_jax.losses": "\n" * (LONGEST + 1)}, long_modules, {"rtda_jax.losses"}),
        (
            {"rtda_jax.losses": "def late():\n    import tensorflow as tf\n"},
            tensorflow_modules,
            {"rtda_jax.losses"},
        ),
        ({"rtda_jax.fda": "import os\nimport fcntl\n"}, unix_modules, {"rtda_jax.fda"}),
        ({"rtda_jax.cli": "import os\nCODE = os.EX_IOERR\n"}, unix_modules, {"rtda_jax.cli"}),
    ],
)
def test_a_house_that_is_broken_once_is_named(changed, check, modules):
    texts = sources()
    assert modules & set(check(texts)) == set()
    assert modules <= set(check(texts | changed))


@pytest.mark.parametrize("module", ["cli", "data.parts", "data.stream", "run.files"])
def test_what_must_not_wait_for_jax_does_not_load_it(module):
    """Help and usage are immediate, and processes that decode hold no copy of JAX."""
    code = f"import sys, rtda_jax.{module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=ROOT)
