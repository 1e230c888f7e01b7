"""Prints the diagram of docs/architecture.md, from the imports of the package.

An arrow means "imports". One that other arrows imply is left out: of a -> b, b -> c and a -> c, the
last. `errors`, which nearly everything imports, is left out too.

    python docs/architecture.py
"""

import ast
import graphlib
import pathlib
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).parents[1]

# The nodes of the diagram: a folder or a file of the package, and what it is for.
NODES = {
    "cli": "command line",
    "configs": "a method is a function",
    "report": "one page about any number of runs",
    "deploy": "predict, export, retrieve",
    "experiment": "the ordered stages of a run",
    "stages": "the kinds of stages",
    "train": "the loop of one stage",
    "evaluate": "scores by one protocol",
    "adapt": "the training step",
    "augment": "changes of images",
    "data": "batches of bytes",
    "models": "networks",
    "weights": "pretrained weights",
    "ops": "operations tuned by hand",
    "run": "checkpoints, logs, signals",
    "losses": "losses of pixels",
    "fda": "Fourier adaptation",
    "metrics": "mIoU",
    "tools_audit": "the same steps twice",
    "tools_cost": "parameters and operations",
    "tools_drawing": "pictures",
    "tools_environment": "versions, memory",
    "tools_hub": "networks of others",
}
IGNORED = {"__init__", "__main__", "errors"}


def node(parts: list[str]) -> str | None:
    """Returns the node that a dotted name belongs to; None for what is not drawn."""
    if parts[0] == "configs":
        return "configs"
    if parts[0] != "rtda_jax" or len(parts) < 2 or parts[1] in IGNORED:
        return None
    if parts[1] == "tools":
        return None if len(parts) < 3 or parts[2] in IGNORED else f"tools_{parts[2]}"
    return parts[1]


def imported(path: pathlib.Path) -> Iterator[list[str]]:
    """Yields the dotted names that a file imports, also inside of functions."""
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            yield from (alias.name.split(".") for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                yield [*statement.module.split("."), alias.name]


def graph() -> dict[str, set[str]]:
    """Returns node -> the nodes that it imports."""
    arrows: dict[str, set[str]] = {name: set() for name in NODES}
    for folder in ("rtda_jax", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            start = node(list(path.relative_to(ROOT).with_suffix("").parts))
            if start is not None:
                ends = {node(name) for name in imported(path)} - {None, start}
                arrows[start] |= {end for end in ends if end is not None}
    return arrows


def reduced(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns the graph without the arrows that others imply.

    Raises:
      graphlib.CycleError: nodes import one another in a ring.
    """
    below: dict[str, set[str]] = {}
    for name in graphlib.TopologicalSorter(arrows).static_order():
        below[name] = set().union(*({end} | below[end] for end in arrows[name]))
    return {
        name: ends - set().union(*(below[end] for end in ends)) for name, ends in arrows.items()
    }


def diagram() -> str:
    """Returns the block in Mermaid's language, with its fences."""
    arrows = reduced(graph())
    lines = ["```mermaid", "flowchart TD"]
    for name, purpose in NODES.items():
        lines.append(f'  {name}["<b>{name.replace("_", "/")}</b><br/>{purpose}"]')
    for name in NODES:
        ends = " & ".join(sorted(arrows[name]))
        lines += [f"  {name} --> {ends}"] if ends else []
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print(diagram())
