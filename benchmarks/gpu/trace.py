"""Sorts the kernels of a training step's profile by what they compute."""

import collections
import gzip
import pathlib
import re
import tempfile
from typing import Any

import jax

from benchmarks import training
from benchmarks.gpu import deterministic, ours
from benchmarks.gpu.plan import Sizes, main_program, sizes_of
from benchmarks.gpu.record import Record, write_json

STEPS = 5

# The first matching pattern decides. Library calls are recognised by the name of their kernel, and
# XLA's own kernels by the path of their op_name, where a convolution's path stands for the work
# around it.
LIBRARY = (
    ("copies between host and device", r"memcpy|infeed|outfeed"),
    ("Fourier transform", r"fft"),
    ("layout: transposes and copies", r"nchwto|nhwcto|nchw_|nhwc_to|transpose|copy"),
    ("convolution", r"conv|cudnn|implicit_gemm|xmma|cutlass|dgrad|wgrad|fprop|sm\d\d_"),
    ("matrix product", r"gemm|cublas|dot|nvjet"),
)
MADE = (
    ("Fourier transform and its window", r"fft|angle"),
    ("layout: transposes and copies", r"/transpose$"),
    ("around convolutions: casts, layout, bias", r"conv_general_dilated|/conv\d*/"),
    ("batch normalisation", r"bn\d*/|norm\d*/"),
    ("resize", r"take|gather|upsample|resize"),
    ("losses and softmax", r"softmax|logsumexp|cross_entropy|reduce_max"),
)
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\([^)]*\)|\S+) ([\w\-]+)\(")
OP_NAME = re.compile(r'op_name="([^"]*)"')
TARGET = re.compile(r'custom_call_target="([^"]*)"')
LABELS = re.compile(r"dim_labels=([\w?>\-]+)")


class Instruction(collections.namedtuple("Instruction", "shape opcode op_name target labels")):
    """One line of a compiled module: its result's type, opcode, origin, library and layout."""


def instructions(text: str) -> dict[str, Instruction]:
    """Returns every instruction of an HLO module by its name."""
    table = {}
    for line in text.splitlines():
        if match := INSTRUCTION.match(line):
            name, shape, opcode = match.groups()
            matches = [pattern.search(line) for pattern in (OP_NAME, TARGET, LABELS)]
            table[name] = Instruction(shape, opcode, *(m.group(1) if m else "" for m in matches))
    return table


def category(kernel: str, origin: str) -> str:
    """Returns what an operation is for, by its kernel's name and its origin in our code."""
    kernel, origin = kernel.lower(), origin.lower()
    own = "fusion" in kernel or "wrapped" in kernel
    if own and re.search(r"transpose|copy", kernel):
        return "layout: transposes and copies"
    text, patterns = (origin, MADE) if own else (kernel, LIBRARY)
    for name, pattern in patterns:
        if re.search(pattern, text):
            return name
    return "other elementwise work"


def convolutions(table: dict[str, Instruction]) -> dict[str, int]:
    """Counts the convolutions of each library call, element type and layout."""
    counts: collections.Counter = collections.Counter()
    for item in table.values():
        if item.opcode == "convolution" or "conv" in item.target:
            dtype = item.shape.lstrip("(").split("[")[0]
            counts[f"{item.target or item.opcode} {dtype} {item.labels}"] += 1
    return dict(counts.most_common())


def opcodes(table: dict[str, Instruction]) -> dict[str, int]:
    """Counts the instructions of each opcode, those inside of fusions included."""
    return dict(collections.Counter(item.opcode for item in table.values()).most_common(40))


def events(folder: pathlib.Path) -> list[tuple[str, str, float]]:
    """Returns the (kernel, HLO instruction, nanoseconds) of every event that belongs to a program.

    A GPU's kernels stand in the planes of the device; a CPU's in the threads of the host.
    """
    (path,) = folder.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    rows = []
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = {str(k): v for k, v in event.stats}
                if devices or "hlo_op" in stats:
                    rows.append((event.name, str(stats.get("hlo_op", "")), event.duration_ns))
    return rows


def profile(sizes: Sizes, folder: pathlib.Path) -> dict[str, Any]:
    """Profiles the main step and writes ops.json and step.hlo.gz into a folder."""
    config = ours.config_of(main_program(sizes), sizes)
    parts = training.training(config)
    batch = jax.device_put(ours.batch_of(config, needs_target=parts.needs_target))
    program, _ = ours.compiled(parts, batch)
    state = jax.device_put(training.filled(parts.state))
    state, logs = program(state, batch)
    jax.block_until_ready(logs)
    text = program.as_text() or ""
    (folder / "step.hlo.gz").write_bytes(gzip.compress(text.encode()))
    table = instructions(text)
    account: dict[str, Any] = {
        "convolutions": convolutions(table),
        "opcodes": opcodes(table),
        "xla_flops": ours.xla_flops(program),
    }
    with tempfile.TemporaryDirectory() as traces:
        with jax.profiler.trace(traces):
            for _ in range(STEPS):
                state, logs = program(state, batch)
            jax.block_until_ready(logs)
        rows = events(pathlib.Path(traces))
    return account | shares(rows, table, folder)


def shares(
    rows: list[tuple[str, str, float]], table: dict[str, Instruction], folder: pathlib.Path
) -> dict[str, Any]:
    """Returns milliseconds per step by category, and of the longest operations; writes ops.json."""
    total: dict[str, float] = collections.defaultdict(float)
    single: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    # Within a CUDA graph a kernel has no instruction, but it has its name.
    by_kernel = {name.replace(".", "_").replace("-", "_"): name for name in table}
    for kernel, name, nanoseconds in rows:
        name = name if name in table else by_kernel.get(kernel, name)
        origin = table[name].op_name if name in table else ""
        total[category(kernel, origin or name)] += nanoseconds
        single[kernel, name].append(nanoseconds)
    ms = 1e-6 / STEPS
    operations = [
        {
            "ms": ms * sum(times),
            "count": len(times) / STEPS,
            "kernel": kernel[:160],
            "op": name,
            "shape": table[name].shape[:120] if name in table else "",
            "origin": table[name].op_name[-160:] if name in table else "",
        }
        for (kernel, name), times in sorted(single.items(), key=lambda item: -sum(item[1]))
    ]
    write_json(folder / "ops.json", operations)
    return {
        "ms_by_category": {
            name: ms * total[name] for name in sorted(total, key=lambda name: -total[name])
        },
        "ms_of_kernels": ms * sum(total.values()),
        "kernels_per_step": len(rows) / STEPS,
        "longest": operations[:40],
    }


def run(spec: dict[str, Any], record: Record) -> None:
    """Profiles the step, and runs it twice to see whether its bits repeat without the flag."""
    sizes = sizes_of(spec)
    record.run("about", ours.about)
    record.run("profile", lambda: profile(sizes, pathlib.Path(spec["out"])))
    record.run("twice without the flag", lambda: deterministic.twice(sizes))
