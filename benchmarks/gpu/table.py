"""Writes the numbers of an accelerator benchmark as a Markdown page."""

from typing import Any

from benchmarks.gpu import plan
from benchmarks.measure import quartiles

NONE = "not measured"


def part(report: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """Returns one part of a section, or nothing where it failed or was not run."""
    value = report["sections"].get(section, {}).get("parts", {}).get(name, {})
    return {} if "error" in value or "skipped" in value else value


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return ["", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _show(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _median(value: dict[str, Any], key: str = "seconds") -> float | None:
    return quartiles(value[key])[1] if value.get(key) else None


def _ms(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1e3 * seconds:.2f}"


def _gib(size: float | None) -> str:
    return NONE if size is None else f"{size / 2**30:.2f}"


def _ratio(mine: float | None, other: float | None) -> str:
    return f"**{mine / other:.2f}**" if mine and other else ""


def _ceiling(report: dict[str, Any]) -> float | None:
    """Returns the faster of both frameworks' matrix products, FLOP/s in bfloat16."""
    rates = [
        part(report, f"{side} {plan.MAIN}", "ceiling").get("bfloat16", 0.0)
        for side in ("ours", "theirs")
    ]
    return max(rates) or None


def _used(value: dict[str, Any], seconds: float | None, ceiling: float | None) -> str:
    if not seconds or not ceiling or not value.get("flops"):
        return NONE
    return f"{value['flops'] / seconds / ceiling:.1%}"


def training(report: dict[str, Any], models: list[str]) -> list[str]:
    """Writes the table of both sides' training steps."""
    rows, sizes = [], plan.SIZES[report["sizes"]]
    for model in models:
        for program in plan.programs(model, sizes):
            if program.job != "train":
                continue
            mine = part(report, f"ours {model}", program.name)
            other = part(report, f"theirs {model}", f"train {program.method}")
            # PyTorch ran in one precision, which stands beside the first of ours.
            other = other if program.dtype == sizes.train[0][1] else {}
            ours, theirs = _median(mine), _median(other)
            rows.append([
                f"`{model}` {program.method}, {program.dtype}, batch {mine.get('batch', '?')}",
                _ms(ours), _ms(mine.get("queued")), _ms(theirs), _ratio(ours, theirs),
                _used(mine, ours, _ceiling(report)), _used(mine, theirs, _ceiling(report)),
                _gib(mine.get("peak")), _gib(mine.get("program_memory")), _gib(other.get("peak")),
            ])  # fmt: skip
    head = [
        *("training step", "ours, ms", "ours queued, ms", "PyTorch, ms", "ours / PyTorch"),
        *("our MFU", "PyTorch's MFU"),
        *("our peak so far, GiB", "our program, GiB", "PyTorch's peak, GiB"),
    ]
    return _table(head, rows)


def taught(report: dict[str, Any]) -> list[str]:
    """Writes the table of our steps that learn from a teacher."""
    rows = []
    for program in plan.taught_programs(plan.SIZES[report["sizes"]]):
        value = part(report, f"taught {plan.TAUGHT}", program.name)
        name = f"`{program.model}` {program.method}, {program.dtype}, batch {value.get('batch')}"
        times = _ms(_median(value)), _ms(value.get("queued"))
        rows.append([name, *times, _gib(value.get("peak")), _gib(value.get("program_memory"))])
    head = ["step with a teacher", "ms", "queued, ms", "peak so far, GiB", "program, GiB"]
    return _table(head, rows)


def inference(report: dict[str, Any], models: list[str]) -> list[str]:
    """Writes the table of one image on both sides, PyTorch in its fastest form."""
    rows, sizes = [], plan.SIZES[report["sizes"]]
    forms = sizes.infer_forms
    for model in models:
        others = [part(report, f"theirs {model}", f"infer {form}") for form in forms]
        fastest = min((o for o in others if o), key=lambda o: _median(o) or 0.0, default={})
        for dtype in sizes.infer_dtypes:
            mine = part(report, f"ours {model}", f"infer {dtype}")
            other = fastest if dtype == "bfloat16" else {}
            ours, theirs = _median(mine), _median(other)
            hosts = _median(mine, "host_seconds"), _median(other, "host_seconds")
            rows.append([
                f"`{model}` {dtype}", _ms(ours), _ms(mine.get("queued")), _ms(theirs),
                _ratio(ours, theirs), _ms(hosts[0]), _ms(hosts[1]), _ratio(*hosts),
                _used(mine, ours, _ceiling(report)),
            ])  # fmt: skip
    head = [
        *("one image", "ours, ms", "ours queued, ms", "PyTorch, ms", "ours / PyTorch"),
        *("ours from the host, ms", "PyTorch from the host, ms", "ours / PyTorch", "our MFU"),
    ]
    return _table(head, rows)


def compilers(report: dict[str, Any], models: list[str]) -> list[str]:
    """Writes the seconds until each program first ran, while all compilers worked at once."""
    ours = report["sections"].get("ours_compile", {}).get("parts", {})
    rows = []
    for model in models:
        for name, value in ours.items():
            if name.startswith(f"{model} ") and "error" not in value:
                shown = value.get("first") or value.get("trace", 0) + value.get("compile", 0)
                rows.append([f"ours, `{model}` {name.removeprefix(model).strip()}", f"{shown:.1f}"])
        theirs = report["sections"].get(f"theirs_compile {model}", {}).get("parts", {})
        for name, value in theirs.items():
            if "first" in value:
                rows.append([f"PyTorch, `{model}` {name}", f"{value['first']:.1f}"])
    return _table(["first call from cold caches, all compilers at once", "s"], rows)


def correctness(report: dict[str, Any]) -> list[str]:
    """Writes the largest error of every comparison and its bound."""
    rows = []
    parts = report["sections"].get("correctness", {}).get("parts", {})
    for name, value in parts.items():
        if "bound" not in value:
            continue
        errors = {
            k: v
            for k, v in value.items()
            if k not in ("bound", "ok", "unbounded", "seconds_of_part")
        }
        worst = max(errors, key=lambda k: errors[k])
        verdict = "yes" if value["ok"] else "**no**"
        cells = [name, f"{errors[worst]:.2g}", worst, f"{value['bound']:g}", verdict]
        rows.append(cells)
    return _table(["against the CPU", "largest error", "of", "bound", "within"], rows)


def repeatability(report: dict[str, Any]) -> list[str]:
    """Writes whether the bits were the same twice, and the cost of the flag."""
    plain = part(report, f"trace {plan.MAIN}", "twice without the flag")
    flagged = part(report, f"deterministic {plan.MAIN}", "with the flag")
    rows = [
        [name, str(value.get("same_bits", NONE)), str(value.get("arrays_that_differ", NONE)),
         _ms(_median(value))]
        for name, value in (("without the flag", plain), ("deterministic", flagged))
    ]  # fmt: skip
    head = ["the same steps twice", "same bits", "arrays that differ", "ms a step"]
    return _table(head, rows)


def pieces(report: dict[str, Any]) -> list[str]:
    """Writes the pieces of a step by themselves."""
    rows = []
    for name, value in report["sections"].get("parts", {}).get("parts", {}).items():
        if "ms" in value:
            rates = value["bytes_per_second"] / 1e9, value["flops_per_second"] / 1e12
            shown = [f"{rate:,.1f}" if rate else "" for rate in rates]
            rows.append([name, f"{value['ms']:.3f}", *shown])
    return _table(["by itself", "ms", "GB/s at least", "TFLOP/s"], rows)


def account(report: dict[str, Any]) -> list[str]:
    """Writes the kernels of the main step by their purpose."""
    value = part(report, f"trace {plan.MAIN}", "profile")
    shares = value.get("ms_by_category", {})
    total = sum(shares.values()) or 1.0
    rows = [[name, f"{ms:.2f}", f"{ms / total:.0%}"] for name, ms in shares.items()]
    lines = _table(["kernels of the main step", "ms a step", "share"], rows)
    calls = [[name, str(n)] for name, n in value.get("convolutions", {}).items()]
    lines += _table(["convolutions in the compiled step", "number"], calls)
    longest = [
        [f"`{row['kernel'][:60]}`", f"{row['ms']:.3f}", f"{row['count']:g}", row["shape"][:40],
         row["origin"][-70:]]
        for row in value.get("longest", [])[:25]
    ]  # fmt: skip
    return lines + _table(["longest operations", "ms", "times", "result", "from"], longest)


def feeding(report: dict[str, Any]) -> list[str]:
    """Returns steps per second with the batch on the device and from the host."""
    section = f"feed {plan.MAIN}"
    values = part(report, section, "one program") | part(report, section, "training loop")
    copies = part(report, section, "copies")
    rows = [
        [label, _show(values.get(key), ".2f")]
        for key, label in (
            ("resident", "batch on the device"),
            ("host", "batch from the host"),
            ("put_ahead", "batch from the host, put one step ahead"),
            ("loop", "the training loop's program, batch from the host"),
        )
    ]
    rate = copies.get("bytes_per_second")
    rows.append(["copies to the device, GB/s", _show(rate / 1e9 if rate else None, ".2f")])
    return _table(["feed", "steps/s"], rows)


def ceilings(report: dict[str, Any]) -> list[str]:
    """Writes the measured rates of matrix products and copies."""
    rows = []
    for side, label in (("ours", "JAX"), ("theirs", "PyTorch")):
        value = part(report, f"{side} {plan.MAIN}", "ceiling")
        for dtype in ("bfloat16", "float32"):
            if dtype in value:
                side_of = value["side"]
                rows.append([f"{label}, {dtype}, {side_of}^3", f"{value[dtype] / 1e12:,.1f}"])
        if "bytes_per_second" in value:
            rows.append(
                [f"{label}, copy in memory, GB/s", f"{value['bytes_per_second'] / 1e9:,.0f}"]
            )
    return _table(["ceiling", "TFLOP/s"], rows)


def heading(report: dict[str, Any]) -> list[str]:
    """Writes device, versions, commit and sizes."""
    sizes = plan.SIZES[report["sizes"]]
    ours: dict[str, Any] = next(
        (s["parts"]["about"] for s in report["sections"].values()
         if "devices" in s.get("parts", {}).get("about", {})), {},
    )  # fmt: skip
    theirs = part(report, f"theirs {plan.MAIN}", "about")
    machine = report["machine"]
    packages = ", ".join(f"{k} {v}" for k, v in ours.get("packages", {}).items())
    return [
        "# rtda_jax on an accelerator",
        "",
        f"{machine['gpu'] or 'no NVIDIA GPU'}; {', '.join(ours.get('devices', ['?']))}; "
        f"{machine['cores']} cores; Python {machine['python']}; {packages}; "
        f"torch {theirs.get('torch', 'not run')}; commit {machine['commit'] or 'unknown'}; "
        f"{report.get('seconds', 0):.0f} s in all.",
        "",
        f"Training at {sizes.crop[0]}x{sizes.crop[1]}, images a domain as the rows say; inference "
        f"of one image of {sizes.infer[0]}x{sizes.infer[1]}, uint8 to uint8, on the device and "
        "from the host. Times are medians of calls that the host waits for; queued: the host "
        f"waits for the last call only. PyTorch: {sizes.train_form}, inference the faster of "
        f"{', '.join(sizes.infer_forms)}. MFU: twice the multiply-accumulates of the convolutions "
        "(rtda_jax.tools.cost) over time, by the faster measured bf16 product. float32 of ours "
        "uses TF32 where the device has it.",
    ]


def states(report: dict[str, Any]) -> list[str]:
    """Names what did not end well."""
    rows = []
    for name, value in report["sections"].items():
        if value["status"] == "ok":
            continue
        parts = value.get("parts", {})
        causes = [f"{p}: {parts[p]['error'][:160]}" for p in value.get("failed_parts", [])]
        rows.append([name, value["status"], "; ".join(causes).replace("|", "/")])
    return _table(["section", "state", "cause"], rows) if rows else []


def markdown(report: dict[str, Any]) -> str:
    """Writes the whole page; what was not measured says so."""
    models = [m for m in plan.MODELS if f"ours {m}" in report["sections"]] or [plan.MAIN]
    lines = [
        *heading(report), *states(report), *training(report, models), *taught(report),
        *inference(report, models), *ceilings(report), *correctness(report),
        *repeatability(report), *account(report), *pieces(report), *feeding(report),
        *compilers(report, models),
    ]  # fmt: skip
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"
