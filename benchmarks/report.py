"""Writes the numbers of a benchmark as Markdown tables."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.measure import quartiles

NOT_RUN = "not run"
# What a latency row includes: upsampling to the image, argmax, and copies from and to the host.
PARTS = {
    "feature": ("no", "no", "no"),
    "logits": ("yes", "no", "no"),
    "classes": ("yes", "yes", "no"),
    "host": ("yes", "yes", "yes"),
}


def step_time(run: dict[str, Any]) -> float:
    """Returns the median duration of a training step in one process, in seconds."""
    return quartiles(run["seconds"])[1]


def image_time(run: dict[str, Any], size: str) -> float:
    """Returns the median duration of an image, host to host, in one process, in seconds."""
    return quartiles(run["sizes"][size]["rows"]["host"]["seconds"])[1]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _pair(ours: float, theirs: float | None, show: Any) -> list[str]:
    if theirs is None:
        return [show(ours), NOT_RUN, ""]
    return [show(ours), show(theirs), f"{ours / theirs:.2f}"]


def _spread(times: dict[str, list[float]]) -> str:
    """Returns median and quartiles of the ratio ours / theirs, round by round."""
    if not times["theirs"]:
        return ""
    low, middle, high = quartiles(np.divide(times["ours"], times["theirs"]))
    return f"**{middle:.2f}** ({low:.2f} to {high:.2f})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _comparison(
    what: str, images: int, macs: int, times: dict[str, list[float]], ceiling: float
) -> list[list[str]]:
    middle = {side: quartiles(t)[1] if t else None for side, t in times.items()}

    def both(show: Any) -> list[str]:
        return [NOT_RUN if m is None else show(m) for m in middle.values()]

    def flops(m: float) -> str:
        return f"{2 * macs / m / 1e9:,.0f} ({200 * macs / m / ceiling:.0f}%)"

    return [
        [f"time per {what}", *both(_ms), _spread(times)],
        ["images/s", *both(lambda m: f"{images / m:.1f}"), ""],
        [f"GFLOP/s of {2 * macs / 1e9:,.1f} GFLOP (of the ceiling)", *both(flops), ""],
    ]


def _compared(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the comparisons that were run, by the names that the notes use."""
    parts = {part: results[part] for part in ("train", "infer") if part in results}
    return parts | results.get("networks", {})


def _processes(results: dict[str, Any], side: str) -> list[dict[str, Any]]:
    return [run for runs in _compared(results).values() for run in runs[side]]


def ceiling(results: dict[str, Any]) -> float:
    """Returns the FLOP/s of the fastest large matrix product that either side reached."""
    return max(r["ceiling"] for side in ("ours", "theirs") for r in _processes(results, side))


def _training(results: dict[str, Any]) -> list[str]:
    train = results["train"]
    ours, theirs = train["ours"], train["theirs"]
    times = {side: [step_time(r) for r in train[side]] for side in ("ours", "theirs")}
    images = results["domains"] * results["batch_size"]
    rows = _comparison("step", images, results["macs"]["step"], times, ceiling(results))

    def last(name: str, show: Any) -> list[str]:
        return _pair(ours[-1][name], theirs[-1][name] if theirs else None, show)

    def first(run: dict[str, Any], name: str) -> float:
        return run["first"] - step_time(run) if name == "compile" else run[name]

    rows += [[f"peak memory of the {ours[-1]['peak_of']}", *last("peak", _gib)]]
    phases = {"compile": "tracing and compilation", "to_first_step": "to first step"}
    for name, phase in phases.items():
        for index, when in ((0, "cold"), (-1, "warm")):
            if index == -1 and len(ours) == 1:
                continue  # a single process with an empty cache
            other = first(theirs[index], name) if theirs else None
            rows.append([f"{phase}, {when}", *_pair(first(ours[index], name), other, _seconds)])
    return _table([_title(results), *_sides(train), "ours / PyTorch"], rows)


def _title(results: dict[str, Any]) -> str:
    height, width = results["crop"]
    count = "+".join([str(results["batch_size"])] * results["domains"])
    names = " + ".join(n for n in (results["model"], results["adversary"]) if n)
    fda = "" if results["fda_beta"] is None else ", FDA"
    return f"training step of {names}{fda}, {count} images of {height}x{width}"


def _sides(runs: dict[str, Any]) -> list[str]:
    mine = runs["ours"][-1]
    head = [f"ours ({mine['precision']})", f"PyTorch ({NOT_RUN})"]
    if runs["theirs"]:
        other = runs["theirs"][-1]
        head[1] = f"PyTorch ({other['form']}, {other['precision']})"
    return head


def _inference(results: dict[str, Any]) -> list[str]:
    infer, lines = results["infer"], []
    for size in infer["ours"][0]["sizes"]:
        times = {side: [image_time(r, size) for r in infer[side]] for side in ("ours", "theirs")}
        rows = _comparison("image", 1, results["macs"][size], times, ceiling(results))
        mine, other = (
            [run["sizes"][size]["peak"] for run in infer[side][-1:]] for side in ("ours", "theirs")
        )
        memory = _pair(mine[0], other[0] if other else None, _gib)
        kind = infer["ours"][-1]["sizes"][size]["peak_of"]
        rows.append([f"peak memory of the {kind}", *memory])
        head = f"inference of {results['model']}, batch 1, {size}, uint8 to uint8"
        lines += [*_table([head, *_sides(infer), "ours / PyTorch"], rows), ""]
    return lines


def _latencies(results: dict[str, Any]) -> list[str]:
    rows = []
    for side, name in (("ours", "ours"), ("theirs", "PyTorch")):
        runs = results["infer"][side]
        if not runs:
            rows.append([name, NOT_RUN, *[""] * 10])
            continue
        about = runs[-1]
        for size in about["sizes"]:
            for part, includes in PARTS.items():
                seconds = [
                    t
                    for run in runs
                    if run["form"] == about["form"] and part in run["sizes"][size]["rows"]
                    for t in run["sizes"][size]["rows"][part]["seconds"]
                ]
                if seconds:
                    middle, late = np.median(seconds), np.percentile(seconds, 95)
                    numbers = f"{1e3 * middle:.1f}", f"{1e3 * late:.1f}", f"{1 / middle:.1f}"
                    about_it = about["device"], about["precision"], "1", size
                    rows.append([name, *about_it, *includes, *numbers, str(len(seconds))])
    head = "latency", "device", "precision", "batch", "HxW", "upsampling", "argmax", "host copy"
    return _table([*head, "median, ms", "p95, ms", "FPS", "runs"], rows)


def _networks(results: dict[str, Any]) -> list[str]:
    """Returns a row for each network: median and 95th percentile end to end, and the ratio."""
    rows, size = [], results["networks_size"]
    for name, runs in results["networks"].items():
        cells, times = [], {}
        for side in ("ours", "theirs"):
            times[side] = [image_time(r, size) for r in runs[side]]
            passes = [t for r in runs[side] for t in r["sizes"][size]["rows"]["host"]["seconds"]]
            cells += [_ms(np.percentile(passes, q)) if passes else NOT_RUN for q in (50, 95)]
        rows.append([f"`{name}`", *cells, _spread(times)])
    head = f"inference, batch 1, {size}, uint8 to uint8"
    return _table([head, "ours", "p95", "PyTorch", "p95", "ours / PyTorch"], rows)


def markdown(results: dict[str, Any]) -> str:
    """Returns all tables, after a paragraph that says what they were measured on."""
    comparisons, settings = _compared(results), results["settings"]
    mine = _processes(results, "ours")[-1]
    versions = sorted(
        {r["version"] for side in ("ours", "theirs") for r in _processes(results, side)}
    )
    load = " and ".join(f"{results[f'load_{when}'][0]:.1f}" for when in ("before", "after"))
    notes = [
        f"{mine['device']} ({mine['platform']}), {results['cores']} cores, {', '.join(versions)}, "
        f"commit {results['commit']}. {settings['rounds']} processes of each side in turn, "
        "medians; ours / PyTorch: median (quartiles) of the ratio of neighbours, below 1 is "
        f"faster. Ceiling: {ceiling(results) / 1e9:,.0f} GFLOP/s in a large matrix product. "
        f"Load of the machine before and after: {load}; {results['seconds']:.0f} s in all.",
        "",
    ]
    for job, runs in comparisons.items():
        if runs["not_run"]:
            notes += [f"{job}: PyTorch {NOT_RUN}: {runs['not_run']}", ""]
        for run in runs["slower"]:
            size = list(run.get("sizes", {}))[-1:]
            took = image_time(run, size[0]) if size else step_time(run)
            notes += [f"{job}: PyTorch {run['form']} is slower, {_ms(took)}, and left out.", ""]
    if mine["platform"] == "cpu":
        notes += [f"GPU: {NOT_RUN}, JAX sees none.", ""]
    if "train" in results:
        notes += [*_training(results), ""]
    if "infer" in results:
        notes += [*_inference(results), *_latencies(results), ""]
    if "networks" in results:
        notes += [*_networks(results), ""]
    return "\n".join(notes).rstrip()
