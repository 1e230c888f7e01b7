"""The PyTorch twins compute what we compute; the table says what ran and what did not."""

import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import config as made

from benchmarks import measure, methods, report, speed
from benchmarks.recipe import no_training_twin, recipe
from rtda_jax.adapt import build
from rtda_jax.adapt.step import make_train_step
from rtda_jax.errors import ConfigError
from rtda_jax.models import MODELS, create_model
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.weights import torch_arrays

SIZE = (64, 128)


def images(count=2):
    return measure.batch(count, SIZE, num_classes=19, target=True)


def numpy(module):
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def moved_alike(before, ours, theirs):
    """Both moved every array alike: within 1e-4, and within a hundredth of the whole move."""
    ours = {name: np.asarray(value) for name, value in ours.items()}
    moves = sum(np.square(ours[name] - np.asarray(before[name])).sum() for name in ours) ** 0.5
    apart = sum(np.square(ours[name] - theirs[name]).sum() for name in ours) ** 0.5
    assert moves > 0
    assert apart < 1e-2 * moves
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-4, err_msg=name)


def turned_alike(before, ours, theirs, *, rate):
    """Adam's first step moves all by the rate, but rounding gives the sign of a zero gradient."""
    apart = np.concatenate([np.abs(ours[n] - theirs[n]).ravel() for n in ours])
    moves = np.concatenate([np.abs(ours[n] - before[n]).ravel() for n in ours])
    assert np.median(moves) > 0.99 * rate
    assert apart.max() < 2.01 * rate
    assert (apart > 0.01 * rate).mean() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["fcd", "fcd_light"])
def test_the_twin_takes_the_same_step(adversary):
    pytest.importorskip("torch")
    from benchmarks.torch_twins.step import Twin
    from benchmarks.torch_twins.weights import d_arrays, give

    config = made("fda", adversary__network=adversary, benchmark__crop=SIZE, fda_beta=0.05)
    config.optim.g_lr = 1e-3
    config.objective.adv_output = 0.1
    config.model.statistics = "both"  # as PyTorch's running statistics
    assert no_training_twin(config) == ""
    stage = build.build(config)
    state = build.initial_state(stage)
    twin = Twin(recipe(config), device="cpu", form="channels_last")
    weights = state.network
    before = jax.device_get(torch_arrays(weights, config.model.name))
    d_before = d_arrays(jax.device_get(state.d_params["output"]))
    give(twin.g, before)
    give(twin.d, d_before)

    after, logs = jax.jit(make_train_step(stage))(state, images())
    losses = twin.step(images())
    assert set(losses) == {
        *("seg", "seg_aux16", "seg_aux32", "adv_output", "d_output_source", "d_output_target")
    }
    for name, value in losses.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-3, err_msg=name)
    weights = after.network
    moved_alike(before, torch_arrays(weights, config.model.name), numpy(twin.g))
    d_after = d_arrays(after.d_params["output"])
    turned_alike(d_before, d_after, numpy(twin.d), rate=config.optim.d_lr)


FAST = ("bisenet_resnet18", "bisenet_lite0")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS]
)
def test_every_twin_gives_the_same_logits(name):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_twins import NETWORKS

    torch.manual_seed(0)
    twin = NETWORKS[name](7)
    model = create_model(name, 7)
    x = np.random.default_rng(0).normal(size=(2, 67, 97, 3)).astype(np.float32)
    pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0), train=True), x)
    twin.train()
    with torch.no_grad():
        twin(pixels)  # statistics that are not 0 and 1
    arrays = numpy(twin)
    flat = torch_arrays(jax.tree.map(lambda s: np.empty(s.shape), shapes), name)
    assert set(flat) == {n for n in arrays if not n.endswith("num_batches_tracked")}
    variables = from_torch(shapes, name, arrays)
    with torch.no_grad():
        expected = twin.eval()(pixels)["logits"].permute(0, 2, 3, 1).numpy()
    logits = jax.jit(model.apply)(variables, x)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def from_torch(shapes, name, arrays):
    """Variables with the twin's weights: the names are found by numbering the leaves."""
    leaves, tree = jax.tree.flatten(shapes)
    numbered = [np.full(leaf.shape, i, np.float32) for i, leaf in enumerate(leaves)]
    for key, value in torch_arrays(tree.unflatten(numbered), name).items():
        array = arrays[key]
        numbered[int(np.ravel(value)[0])] = (
            array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        )
    return tree.unflatten(numbered)


def test_what_has_no_twin_is_said_by_name():
    config = made("fda", pixel_loss="focal")
    assert "no pixel_loss 'focal'" in no_training_twin(config)
    config = made("fda", fda_other_betas=(0.05,))
    assert "no fda_other_betas (0.05,), only ()" in no_training_twin(config)
    config = made("fda", loss__weighting="enet")
    assert "no loss.weighting 'enet', only none" in no_training_twin(config)
    config = made("fda", optim__g_groups="heads")
    assert "no optim.g_groups 'heads', only one" in no_training_twin(config)
    config = made("fda", model__name="deeplab_vgg16")
    assert "DeepLab" in no_training_twin(config)
    config = made("adversarial", objective__adv_aux16=0.1)
    assert "no term 'adv_aux16'" in no_training_twin(config)


def side(step, image, parts):
    """Made-up numbers of one process of each job."""
    about = {"platform": "cpu", "device": "cpu", "precision": "float32", "form": "x"}
    about |= {"version": "v 1"}
    memory = {"peak_of": "process", "peak": 2**30}
    rows = {name: {"seconds": [image] * 3} for name in ("host", *parts)}
    sizes = {"64x128": {"rows": rows, **memory}}
    about["ceiling"] = 1e12
    times = {"seconds": [step] * 3, "first": step + 9, "to_first_step": 12.0}
    return about | memory | times, about | {"sizes": sizes}


def found(theirs):
    ours = [side(0.2, 0.01, ("feature",)), side(0.4, 0.02, ())]
    made = {
        "model": "bisenet_resnet18", "adversary": "fcd", "crop": [64, 128], "batch_size": 4,
        "domains": 2, "fda_beta": 0.01, "commit": "c", "cores": 2, "seconds": 1.0,
        "load_before": (0, 0, 0), "load_after": (0, 0, 0), "settings": {"rounds": 2},
        "macs": {"step": 10**11, "64x128": 10**9}, "networks_size": "64x128",
    }  # fmt: skip
    for i, job in enumerate(("train", "infer")):
        reason = "" if theirs else "torch is not installed"
        runs = {"ours": [s[i] for s in ours], "theirs": [s[i] for s in theirs]}
        made[job] = runs | {"slower": [], "not_run": reason}
    return made


def test_the_table_pairs_neighbours():
    table = report.markdown(found([side(0.2, 0.02, ()), side(0.2, 0.02, ())]))
    # Ratios of the rounds: 1 and 2; 0.5 and 1.
    assert "| time per step | 300.0 ms | 200.0 ms | **1.50** (1.25 to 1.75) |" in table
    assert "**0.75** (0.62 to 0.88)" in table
    assert "| images/s | 26.7 | 40.0 |  |" in table
    assert "GFLOP/s of 200.0 GFLOP (of the ceiling) | 667 (67%) | 1,000 (100%)" in table
    assert "| tracing and compilation, cold | 9.0 s | 9.0 s | 1.00 |" in table
    assert "| ours | cpu | float32 | 1 | 64x128 | no | no | no | 10.0 | 10.0 | 100.0 | 3 |" in table


def test_the_table_of_networks_has_a_row_each():
    numbers = found([side(0.2, 0.02, ()), side(0.2, 0.02, ())])
    del numbers["train"]
    numbers["networks"] = {"bisenet_stdc1": numbers.pop("infer")}
    table = report.markdown(numbers)
    row = "| 15.0 ms | 20.0 ms | 20.0 ms | 20.0 ms | **0.75** (0.62 to 0.88) |"
    assert f"| `bisenet_stdc1` {row}" in table
    assert "training step" not in table


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no part 'inference'; train, infer, networks"):
        speed.run(made("fda"), tmp_path, parts=("train", "inference"))


def test_what_did_not_run_is_said():
    table = report.markdown(found([]))
    assert "train: PyTorch not run: torch is not installed" in table
    assert "GPU: not run" in table
    assert "| time per step | 300.0 ms | not run |  |" in table


@pytest.mark.slow
def test_the_job_writes_its_numbers(tmp_path):
    config = made("fda", benchmark__crop=SIZE)
    options = {"rounds": 1, "train_steps": 1, "infer_steps": 2, "infer_size": (32, 64)}
    config.speed.update(options)
    result = speed.run(config, tmp_path)
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["macs"] == result["macs"]
    for job in ("train", "infer"):
        assert len(written[job]["ours"]) == 1
    assert "training step of bisenet_resnet18 + fcd, FDA" in (tmp_path / "speed.md").read_text()


@pytest.mark.parametrize("row", methods.ROWS)
def test_every_row_of_the_table_of_methods_is_a_config(row, tmp_path):
    line = methods.command(row, benchmark="synth_to_camvid", seeds=2, folder=tmp_path)
    path, argument = line[line.index("--config") + 1].split(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    config = module.get_config(argument)
    assert config.benchmark.name == "synth_to_camvid"
    assert make_plan(config, KINDS)
    plain = module.get_config("synth_to_camvid")
    assert (config.to_dict() == plain.to_dict()) == (not methods.ROWS[row].options)
    chosen = methods.ROWS[row]
    after = ["--seeds=2", "--workdir", str(tmp_path / row), *chosen.flags]
    assert line[-len(after) :] == after
    line = methods.command(
        row, benchmark="streets", seeds=1, folder=tmp_path, pretrained="bisenet_lite1"
    )
    argument = line[line.index("--config") + 1].partition(":")[2]
    given = "bisenet_resnet18" if chosen.initial == "random" else "bisenet_lite1"
    config = module.get_config(argument)
    assert config.model.name == given
    for flag in chosen.flags:
        name, _, value = flag.removeprefix("--config.").partition("=")
        assert functools.reduce(getattr, name.split("."), config) != value


@pytest.mark.slow
def test_the_comparison_of_formats_has_a_row_for_every_runtime(tmp_path):
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.formats", "--rounds=2"]
    table = subprocess.run(
        [*command, "--network=bisenet_lite0", "--size=64x96"],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
    )
    assert table.returncode == 0, table.stderr
    rows = [line for line in table.stdout.splitlines() if line.startswith("| ")][2:]
    left_out = [line for line in table.stdout.splitlines() if "is not installed" in line]
    assert len(rows) + len(left_out) == 6
    for row in rows:
        name, _, share, _ = row.strip("| ").split(" | ")
        assert float(share) > 99.9, name
