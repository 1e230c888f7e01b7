"""Publishes trained networks as a folder: weights, record and model card; on a hub on request.

The folder holds `config.json` (how the networks were trained, without paths of this machine), each
network as `.safetensors`, `published.json` (which file is which network, with its SHA-256, and the
scores), and `README.md`, the model card in the form of the Hugging Face Hub. `predict`, `export`
and `retrieve` accept such a folder in place of a workdir, and `hf://OWNER/NAME` for one on the hub.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import rtda_jax
from rtda_jax import evaluate
from rtda_jax.data.labels import class_set, is_definition, with_definitions
from rtda_jax.deploy import Networks
from rtda_jax.errors import ConfigError, one_of, require
from rtda_jax.models import MODELS
from rtda_jax.run import files, log
from rtda_jax.run.binding import CODE
from rtda_jax.run.workdir import claimed, read_json, read_results, write_json
from rtda_jax.stages.plan import Plan, architecture, parse
from rtda_jax.tools import environment, hub
from rtda_jax.tools.hub import RECORD
from rtda_jax.weights import export_pretrained, load_pretrained
from rtda_jax.weights.load import PRECISIONS, rounded


def run(
    chosen: Networks,
    *,
    out: pathlib.Path,
    repository: str | None = None,
    licence: str = "",
    precision: str = "float32",
) -> dict[str, Any]:
    """Writes the folder, and uploads it if a repository is named.

    Args:
      chosen: the result of networks.choose.
      out: the folder; created if it does not exist.
      repository: OWNER/NAME on the hub, created if it does not exist; None uploads nothing.
      licence: the licence of the weights, as the hub names it, such as "cc-by-nc-4.0", or empty.
      precision: the type of the numbers in the files, a key of `weights.load.PRECISIONS`.

    Returns:
      The content of `published.json`.

    Raises:
      ConfigError: the folder holds files of others, the precision is unknown or too coarse, or the
        hub cannot be reached or refuses.
    """
    one_of(precision, PRECISIONS, "precision")
    if repository is not None:
        hub.check(repository)  # before anything is written
    results = [*chosen.files.values(), "config.json", "README.md"]
    with claimed(out, record=RECORD, results=results) as begin:
        for name, model, network in zip(chosen.names, chosen.models, chosen.networks, strict=True):
            rounded(model.variables, network, out / chosen.files[name], precision=precision)
        run_record = without_paths(with_definitions(read_json(chosen.workdir / "config.json")))
        measured = score(chosen)
        listed = begin()
        for name, model, network in zip(chosen.names, chosen.models, chosen.networks, strict=True):
            path = out / chosen.files[name]
            export_pretrained(
                model.variables,
                network,
                path,
                normalisation=model.normalisation,
                precision=precision,
            )
        write_json(out / "config.json", run_record)
        record = {
            "format": 1,
            "stage": chosen.stage,
            "precision": precision,
            "networks": {
                name: {"file": file, "sha256": files.sha256(out / file), "network": network}
                for (name, file), network in zip(chosen.files.items(), chosen.networks, strict=True)
            },
            "score": measured,
            "rtda_jax": rtda_jax.__version__,
            "commit": environment.commit(),
            "results": listed,
        }
        write_json(out / RECORD, record)
        card = model_card(chosen, record, repository=repository, licence=licence)
        files.write_bytes(out / "README.md", card.encode())
    log.say(f"{' + '.join(chosen.names)} of {chosen.workdir} in {out}")
    if own := own_networks(chosen):
        log.say(
            f"  warning: {' and '.join(own)} is no network of rtda_jax: who receives this folder "
            "needs the configuration file that defines it, too, as README.md says"
        )
    if repository is not None:
        log.say(f"  uploaded to {hub.upload(out, repository, names=listed)}")
    return record


def without_paths(value: Any) -> Any:
    """Returns a record in which every absolute path is replaced by its last part.

    The folders of the machine that trained are private and of no use elsewhere. Paths in the
    argument of a configuration file, which `code` holds, are replaced as well.
    """
    if isinstance(value, Mapping):
        fields = {key: without_paths(child) for key, child in value.items()}
        if isinstance(fields.get(CODE), str):
            fields[CODE] = re.sub(r"(?<=[:=,])[^:=,]*/", "", fields[CODE])
        return fields
    if isinstance(value, list):
        return [without_paths(child) for child in value]
    if isinstance(value, str) and (value.startswith("~") or pathlib.PurePath(value).is_absolute()):
        return pathlib.PurePath(value).name
    return value


class Published(NamedTuple):
    """The content of `published.json`.

    Attributes:
      stage: the stage to which the networks belong.
      networks: file and SHA-256 of each network, by its name, such as "train:teacher".
      score: the scores of the evaluation, or None.
    """

    stage: str
    networks: dict[str, tuple[str, str]]
    score: dict[str, Any] | None


def read(folder: pathlib.Path) -> Published:
    """Reads the record of a published folder.

    Raises:
      ConfigError: the record is damaged.
    """
    record = read_json(folder / RECORD)
    try:
        score = record.get("score")
        return Published(
            str(record["stage"]),
            {
                str(name): (str(about["file"]), str(about["sha256"]))
                for name, about in dict(record["networks"]).items()
            },
            None if score is None else dict(score),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / RECORD}: the field {error} is missing or wrong") from None


def load(folder: pathlib.Path, plan: Plan) -> Networks:
    """Loads the networks of a published folder.

    Args:
      folder: a folder that `run` wrote.
      plan: the plan of its configuration.

    Raises:
      ConfigError: the record is damaged or names a file outside the folder, or a file is not the
        one that was published.
    """
    stage, described, _ = read(folder)
    require(
        stage in plan and all(parse(name)[0] in plan for name in described),
        f"{folder / RECORD} names stages that config.json beside it does not have",
    )
    models, architectures = [], []
    for name, (file, digest) in described.items():
        require(
            file == pathlib.PurePath(file).name and file.endswith(".safetensors"),
            f"{folder / RECORD}: {file!r} is not a .safetensors file of this folder",
        )
        require((folder / file).is_file(), f"{folder / file} is missing; download it again")
        require(
            files.sha256(folder / file) == digest,
            f"{folder / file} is not the file that was published: its SHA-256 differs from the one "
            f"in {RECORD}; download it again",
        )
        (of, weights), network = parse(name), architecture(plan, name)
        method = plan[of].method
        require(method is not None, f"{folder / RECORD}: the stage of {name!r} trains no network")
        assert method is not None
        spec = method.network(weights)
        variables, report = load_pretrained(folder / file, network, spec.zeros(), part="all")
        require(not report.missing, f"{folder / file} lacks weights of {network}")
        models.append(evaluate.Model(spec.module, variables, spec.normalisation))
        architectures.append(network)
    return Networks(
        tuple(models), tuple(described), stage, folder, plan[stage].config, tuple(architectures)
    )


def is_published(folder: pathlib.Path) -> bool:
    """Returns whether a folder was written by the job publish."""
    return (folder / RECORD).is_file()


def own_networks(chosen: Networks) -> list[str]:
    """Returns those networks, by their names, that a user's own configuration file defines."""
    classes = {name: getattr(MODELS[name], "func", MODELS[name]) for name in chosen.networks}
    package = f"{rtda_jax.__name__}."
    return [name for name, network in classes.items() if not network.__module__.startswith(package)]


def model_card(
    chosen: Networks, record: dict[str, Any], *, repository: str | None, licence: str
) -> str:
    """Returns the content of README.md: networks, scores, protocol, and how to use them."""
    config, measured = chosen.config, record["score"]
    halved = record["precision"] == "float16"
    start = without_paths(config.model.pretrained)
    classes = class_set(config.benchmark.classes).names
    title = f"{' + '.join(dict.fromkeys(chosen.networks))}, {config.benchmark.name}"
    address = f"{hub.HUB}{repository}" if repository else "FOLDER"
    header = {
        "library_name": "rtda_jax",
        "pipeline_tag": "image-segmentation",
        "tags": ["jax", "flax", "real-time", "semantic-segmentation", "domain-adaptation"],
        **({"license": licence} if licence else {}),
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", ""]
    lines += [f"# {title}", ""]
    lines += [
        "Real-time semantic segmentation, trained by unsupervised domain adaptation: on "
        f"labels of {_named(config.benchmark.source)} and images of "
        f"{_named(config.benchmark.target)} without labels. Written by "
        f"rtda_jax {record['rtda_jax']}; `config.json` is the whole configuration.",
        "",
        "```",
        f"rtda-jax predict photo.jpg --weights {address}",
        "```",
        "",
    ]
    if own := own_networks(chosen):
        file = without_paths({CODE: config.code})[CODE].rpartition(" ")[0] or "FILE.py"
        lines += [
            f"`{'` and `'.join(own)}` is no network of rtda_jax. This command also needs `--config "
            f"{file}`, the configuration file that defines it, and what that file imports from its "
            "folder. They are code, which is not published here: ask the authors for it. Where the "
            "file has other values than `config.json`, they are flags, as in `--config.steps=100`.",
            "",
        ]
    lines += ["## Score", ""]
    if measured is None:
        lines += ["These networks were not evaluated on labels before they were published.", ""]
    else:
        lines += [
            f"{evaluate.percent(measured['miou'])} mIoU and "
            f"{evaluate.percent(measured['pixel_accuracy'])} pixel accuracy on "
            f"{measured['images']} images, at step {measured['step']}"
            + (", before the weights were rounded to float16" if halved else "")
            + ". Protocol:",
            "",
            "```",
            json.dumps(_with_names(measured["protocol"]), indent=2),
            "```",
            "",
            "| class | IoU, % |",
            "| --- | --: |",
            *(f"| {name} | {evaluate.percent(value)} |" for name, value in measured["iou"].items()),
            "",
        ]
    lines += [
        "## What to know before you use it",
        "",
        f"- It tells {len(classes)} classes apart: {', '.join(classes)}.",
        "- It has seen two kinds of images, and nothing is known about others. It is research "
        "software and no part of a safety system.",
        "- The licences of the data sets hold for what was learnt from them: many forbid "
        "commercial use.",
        *(
            [f"- Training began from the weights `{start}`, whose terms hold as well."]
            if start
            else []
        ),
        "",
        "## Files",
        "",
        "| network | file | SHA-256 |",
        "| --- | --- | --- |",
        *(
            f"| {name} ({about['network']}) | `{about['file']}` | `{about['sha256']}` |"
            for name, about in record["networks"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def score(chosen: Networks) -> dict[str, Any] | None:
    """Returns the scores of these networks in the run's evaluation on labels, or None.

    Scores of other weights do not count, as those from before the run was trained further.
    """
    if is_published(chosen.workdir):
        return read(chosen.workdir).score
    stages = read_results(chosen.workdir).get("stages", {})
    fields = ("miou", "pixel_accuracy", "iou", "images", "step", "protocol")
    for result in (stages.get(chosen.stage, {}), *stages.values()):
        if result.get("miou") is not None and _is_of(result, chosen):
            return without_paths({field: result.get(field) for field in fields})
    return None


def _is_of(result: Mapping[str, Any], chosen: Networks) -> bool:
    """Returns whether an evaluation read these weights; older releases recorded no seals."""
    seals = result.get("weights") or {}
    return (
        result.get("models") == list(chosen.names)
        and result.get("step") == chosen.step
        and all(seals.get(of, digest) == digest for of, digest in chosen.seals.items())
    )


def _with_names(protocol: Any) -> Any:
    """Returns a protocol with the names of the user's classes in place of their definitions."""
    if not isinstance(protocol, Mapping):
        return protocol
    return {
        field: list(class_set(value).names) if is_definition(value) else value
        for field, value in protocol.items()
    }


def _named(spec: ConfigDict) -> str:
    """Returns the name of a data set, and of the part of it where it has several.

    A data set of the user's own is named by the last two folders of its images, which say what it
    is and not where the user keeps it.
    """
    path = pathlib.Path(spec.get("images") or "").expanduser()
    if path.is_relative_to(pathlib.Path.home()):
        path = path.relative_to(pathlib.Path.home())
    parts = [*itertools.takewhile(lambda part: not set("*?[") & set(part), path.parts)]
    folders = "/".join(part for part in parts[-2:] if part != path.anchor)
    part = folders or spec.get("split")
    return f"`{spec.name}`" + (f" (`{part}`)" if part else "")
