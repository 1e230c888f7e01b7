"""Pages of the documentation site that stand elsewhere in the repository, or in docstrings.

mkdocs calls the functions `on_*` (see mkdocs.yml). README.md becomes the first page, CONTRIBUTING,
SECURITY and CHANGELOG pages of their own, `methods.md` shows the docstring of every configuration,
and `reference.md` lists the modules that users call.
"""

import ast
import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
ALSO = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
HELPERS = {"arguments", "base", "benchmarks", "recipes"}

# What users import, from the outside in.
REFERENCE = (
    "rtda_jax.experiment",
    "rtda_jax.train",
    "rtda_jax.evaluate",
    "rtda_jax.adapt.build",
    "rtda_jax.adapt.method",
    "rtda_jax.adapt.step",
    "rtda_jax.adapt.terms",
    "rtda_jax.adapt.views",
    "rtda_jax.adapt.teacher",
    "rtda_jax.adapt.optim",
    "rtda_jax.augment.colour",
    "rtda_jax.augment.geometry",
    "rtda_jax.augment.mixing",
    "rtda_jax.fda",
    "rtda_jax.losses",
    "rtda_jax.metrics",
    "rtda_jax.data.labels",
    "rtda_jax.data.batches",
    "rtda_jax.data.sampling",
    "rtda_jax.weights.load",
    "rtda_jax.deploy.export",
    "rtda_jax.deploy.publish",
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that do not stand in docs/."""
    pages = {"index.md": (ROOT / "README.md").read_text()}
    pages |= {name: (ROOT / name).read_text() for name in ALSO}
    pages |= {"methods.md": methods(), "reference.md": reference()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=linked(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leads links that leave docs/ to where the site has the page."""
    return linked(markdown)


def linked(text: str) -> str:
    """Returns Markdown whose links to files of the repository lead to pages of the site."""
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    text = re.sub(rf"\]\(\.\./({'|'.join(ALSO)})", r"](\1", text)
    # What is no page is named without a link.
    folders = "notebooks|examples|benchmarks|configs|rtda_jax"
    return re.sub(rf"\[([^\]]+)\]\((?:\.\./)?(?:{folders})/[^)]*\)", r"\1", text)


def methods() -> str:
    """Returns the page that shows what every configuration trains."""
    parts = [
        "# Methods",
        "",
        "Every configuration of `configs/`: its objective, its source, its command, and the score "
        "to expect. `--config NAME:BENCHMARK,option=value` chooses the pair of data sets and the "
        "options.",
        "",
    ]
    for path in sorted((ROOT / "configs").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text()))
        if path.stem not in HELPERS and text:
            parts += [f"## `{path.stem}`", "", "```text", text, "```", ""]
    return "\n".join(parts)


def reference() -> str:
    """Returns the page that mkdocstrings fills with the docstrings of `REFERENCE`."""
    return "\n".join(["# Reference", "", *(f"::: {module}\n" for module in REFERENCE)])
