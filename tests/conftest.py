"""Two CPU devices, no silent broadcasting, and one compilation cache for each worker."""

import gc
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Most of the time of the tests is compilation, and most of that is optimisation, which pays off for
# large programs that run for long. `XLA_FLAGS= pytest` tests programs as users run them.
# Two devices wait for each other at a collective; on a busy machine that may take a while.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    # JAX writes a cache file in place: a neighbour could read half of it.
    or str(
        pathlib.Path(tempfile.gettempdir())
        / f"rtda_jax_test_cache_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    ),
)
# Files compile the same small programs again and again.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Tracing makes millions of small objects, hardly any of them in cycles. With Python's own
# thresholds, the search for cycles takes a fifth of its time, most of it in what imports made.
gc.freeze()
gc.set_threshold(100_000, 50, 20)

# The files that take longest, first: a worker that begins one of them last leaves the other idle.
LONGEST = (
    "test_notebook.py",
    "test_methods.py",
    "test_models.py",
    "test_faults.py",
    "test_weights_parity.py",
    "test_onnx.py",
    "test_online_runs.py",
    "test_online.py",
    "test_experiment.py",
    "test_export.py",
    "test_publish.py",
    "test_hosts.py",
    "test_train.py",
    "test_memory.py",
)


def pytest_collection_modifyitems(items):
    """Puts the longest files first; xdist keeps the order with --no-loadscope-reorder."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs of a file are dropped after it: all of them together take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def tiny_networks():
    """Every configuration of the file builds networks of a few convolutions."""
    from helpers import shrink

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield


@pytest.fixture(scope="module")
def networks_of_two_kinds(tiny_networks):
    """Tiny networks, of which the large one has a head more."""
    from helpers import LARGE, Tiny

    from rtda_jax.adapt import build

    def model(name, *, num_classes, axis_name, batch_norm, dtype, **options):
        more = ("aux4",) if name == LARGE else ()
        return Tiny(num_classes, axis_name, batch_norm, heads=("aux16", "aux32", *more))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "create_model", model)
        yield


@pytest.fixture(scope="session")
def workdirs(tmp_path_factory):
    """The workdirs of runs for a report: three methods, two of them with three seeds."""
    from run_records import write_run

    root = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(root / f"source_only-seed{s}", "source_only", s, skill=0.1) for s in range(3)
    ]
    folders += [write_run(root / f"fda_mbt-seed{s}", "fda_mbt", s, skill=0.4) for s in range(3)]
    folders.append(write_run(root / "target_only", "target_only", 0, skill=0.9))
    return [str(path) for path in folders]


@pytest.fixture(scope="session")
def written(workdirs, tmp_path_factory):
    """The folder of the report about them."""
    from rtda_jax import report

    out = tmp_path_factory.mktemp("report")
    report.write(workdirs, out)
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out most drawings, which take most of the time."""
    from rtda_jax.report import figures

    def nothing(*drawn):
        words = " ".join(str(getattr(thing, "label", thing)) for thing in drawn)
        return figures.Panel(words[:40], '<svg viewBox="0 0 9 9"></svg>', "nothing")

    for name in ("class_bars", "confusion", "training_curve", "discriminator", "validator"):
        monkeypatch.setattr(figures, name, nothing)


@pytest.fixture
def classify(monkeypatch):
    """What the network of `predictions.run` makes of an image, in NumPy."""
    from helpers import pixelwise

    from rtda_jax.deploy import predict

    monkeypatch.setattr(predict, "REPEAT_FOR", 0.01)
    _, scores = pixelwise()
    return lambda image: scores(image).argmax(-1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny labelled pair of folders."""
    from helpers import write_folders

    folder = tmp_path_factory.mktemp("folders")
    write_folders(folder)
    return folder
