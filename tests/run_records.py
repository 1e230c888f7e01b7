"""Writes the records of runs that nobody made, and reads what a report says of runs."""

import importlib
import json
import shutil
from html.parser import HTMLParser

import numpy as np

from rtda_jax import evaluate
from rtda_jax.data.labels import class_set
from rtda_jax.report import compare, runs
from rtda_jax.run import log
from rtda_jax.run.files import LOCK
from rtda_jax.run.options import plain
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import KINDS
from rtda_jax.tools import drawing

HEAD = class_set("cityscapes19")


def write_run(folder, name, seed, *, skill, benchmark="streets", steps=40, colour=90):
    """The records of a run whose confusion matrix is right for a share `skill` of the pixels."""
    config = importlib.import_module(f"configs.{name}").get_config(benchmark)
    config.seed, config.steps = seed, steps
    config = plain(config.lock())
    rng = np.random.default_rng([seed, int(1000 * skill)])
    stages = {}
    for stage in config["stages"]:
        overrides = config["stage"][stage]
        if overrides["kind"] == "train":
            overrides = {k: v for k, v in overrides.items() if not isinstance(v, dict)}
            stages[stage] = train_record(folder / stage, config | overrides)
        elif overrides["kind"] == "evaluate":
            confusion = rng.integers(0, 50, (19, 19))
            confusion += np.diag(rng.integers(0, 1 + int(9000 * skill), 19))
            confusion[16] = confusion[:, 16] = 0  # a class that does not occur
            validators = {"source_miou": 0.5, "entropy": 1 - skill + 0.01 * seed}
            stages[stage] = {
                **evaluation_record(confusion, config | overrides),
                "validators": validators,
            }
            image = rng.integers(0, 256, (8, 16, 3), np.uint8)
            write_sheet(folder / stage, image=image, truth=90, prediction=colour)
        else:
            stages[stage] = {"models": overrides["models"], "seconds": 1.0}
    results = {
        "config": config,
        "benchmark": benchmark,
        "seed": seed,
        "commit": "0123456789ab",
        "environment": {"python": "3.11", "packages": {"jax": "0.10"}, "devices": ["1 x cpu"]},
        "command": f"python main.py --config configs/{name}.py --config.seed={seed}",
        "stages": stages,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "results.json", results)
    return folder


def train_record(folder, config):
    names = ["seg", "adv_output"] if config["objective"]["adv_output"] else ["seg"]
    folder.mkdir(parents=True, exist_ok=True)
    steps = config["steps"]
    for step in range(steps // 4, steps + 1, steps // 4):
        row = {"step": step, "loss": 2 / step, **dict.fromkeys(names, 1 / step)}
        if "adv_output" in names:
            accuracies = {"source": 0.9 - 0.4 * step / steps, "target": 0.5}
            row |= {f"d_output_accuracy_{d}": v for d, v in accuracies.items()}
        row |= {"images_per_second": 10.0, "data_wait": 0.02, "seconds_left": 1.0}
        log.append(folder / log.METRICS_FILE, row)
    return {
        "step": steps,
        "seconds": 60.0 + config["seed"],
        "objective": " + ".join(f"1·{n}" for n in names),
        "fda_beta": config["fda_beta"],
        "networks": ["bisenet_resnet18: 12,068,672 parameters"],
    }


def evaluation_record(confusion, config):
    benchmark = config["benchmark"]
    return {
        **evaluate.report(confusion, names=HEAD.names, rows=range(19)),
        "images": 100,
        "protocol": {
            "mode": "whole",
            "input_size": benchmark["eval_size"],
            "upsampled": "logits",
            "split": benchmark["eval"],
            "classes": benchmark["eval_classes"],
            "head_classes": benchmark["classes"],
        },
        "step": config["steps"],
        "models": config["models"],
        "confusion": confusion.tolist(),
        "seconds": 3.5,
    }


def write_sheet(folder, *, image, truth, prediction):
    cells = [np.full((8, 16, 3), value, np.uint8) for value in (prediction, truth)]
    sheet = drawing.grid(
        [[image, *cells]] * 2,
        titles=["target", "prediction", "truth"],
        names=HEAD.names,
        colours=np.asarray(HEAD.colours, np.uint8),
        width=32,
    )
    drawing.save(sheet, folder / "predictions.png")


def series(workdirs):
    folders, _ = runs.find([str(path) for path in workdirs])
    return compare.series(runs.load_all(folders, KINDS))


def board(workdirs):
    (only,) = series(workdirs)[1]
    return only


def edited(workdir, folder, change):
    """A copy of a workdir, at `folder`, whose results were changed."""
    shutil.copytree(workdir, folder)
    results = json.loads((folder / "results.json").read_text())
    change(results)
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def same(results):
    """Change nothing."""


def contents_of(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != LOCK]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def table(text, first):
    """The rows of the Markdown table whose head begins with `first`, by their first cell."""
    lines = text[text.index(f"\n| {first} |") + 1 :].split("\n\n")[0].splitlines()
    rows = [[cell.strip(" *") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip(): dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


class Tags(HTMLParser):
    """Checks nesting and collects what the page would load."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.ids, self.repeated = [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[k] for k in ("src", "href") if k in values]
        if "id" in values and values["id"] in self.ids:
            self.repeated.add(values["id"])
        self.ids.add(values.get("id"))
        assert not any(name.startswith("on") for name in values)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
