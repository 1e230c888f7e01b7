"""Where trained networks are: in folders, in this package, and on the Hugging Face Hub.

Everything that speaks to the hub is the package huggingface_hub, which keeps the user's login, a
cache that also serves without a network, and resumes what was interrupted.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from rtda_jax.errors import ConfigError, require
from rtda_jax.tools.environment import trained_folder

HUB = "hf://"
RECORD = "published.json"  # of a published folder
READERS = ("predict", "export", "publish", "retrieve")  # the jobs that read one
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


def is_address(weights: str | None) -> bool:
    """Returns whether --weights names a repository of the hub."""
    return weights is not None and weights.startswith(HUB)


def find(weights: str, *, flag: str = "--weights") -> pathlib.Path:
    """Returns the folder that --weights names.

    Args:
      weights: a folder, its name in ./runs or among those of the package, or an address.
      flag: the name of the flag in errors.

    Raises:
      ConfigError: it is none of these.
    """
    if is_address(weights):
        return download(weights)
    trained = trained_folder()
    names = sorted(path.name for path in trained.iterdir())
    for place in (pathlib.Path(weights).expanduser(), pathlib.Path("runs", weights)):
        # `results_folder` puts the results of the package's networks into runs/NAME, too.
        if place.is_dir() and (weights not in names or _holds_run(place)):
            return place
    require(
        weights in names,
        f"{flag}={weights}: no such folder, and none of that name in runs/; with rtda_jax come: "
        + ", ".join(names),
    )
    return trained / weights


def _holds_run(folder: pathlib.Path) -> bool:
    """Returns whether a folder is the workdir of one seed or of several, or a published one."""
    return any((place / "config.json").exists() for place in (folder, folder / "seed0"))


def results_folder(workdir: pathlib.Path, weights: str | None) -> pathlib.Path:
    """Returns the folder for the results of a network: its own, or one in ./runs.

    Nothing is written into the hub's cache or the package: the results of hf://OWNER/NAME go to
    runs/OWNER--NAME, and those of a network of the package to runs/NAME.
    """
    if weights is not None and is_address(weights):
        match = ADDRESS.fullmatch(weights)
        return pathlib.Path("runs", (match[1] if match else weights).replace("/", "--"))
    if workdir.resolve().parent == trained_folder().resolve():
        return pathlib.Path("runs", workdir.name)
    return workdir


def check(repository: str) -> None:
    """Checks that a repository can be uploaded to, as far as that is known here.

    Raises:
      ConfigError: the name is not OWNER/NAME, or the package is missing.
    """
    match = ADDRESS.fullmatch(HUB + repository)
    require(
        match is not None and match[2] is None,
        f"--repository must be OWNER/NAME, got {repository!r}",
    )
    _library()


def check_unpublished(folder: pathlib.Path) -> None:
    """Refuses a published folder as the workdir of a job that writes to it.

    Raises:
      ConfigError: names the folder and the jobs that read it.
    """
    require(
        not (folder / RECORD).exists(),
        f"{folder} is a published folder: {', '.join(READERS)} read it, and nothing is trained or "
        "evaluated in it",
    )


def upload(folder: pathlib.Path, repository: str, *, names: Sequence[str]) -> str:
    """Uploads files of a published folder, as one commit, and returns its address.

    Raises:
      ConfigError: the hub cannot be reached, or refuses; the reason is the hub's own.
    """
    hub = _library()
    try:
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Publish a network of rtda_jax",
        )
    except _errors(hub) as error:
        raise ConfigError(
            f"{HUB}{repository}: {_first_line(error)}; the folder {folder} is complete and can be "
            "uploaded by hand"
        ) from None
    return str(commit.commit_url)


def download(address: str) -> pathlib.Path:
    """Returns the local folder of `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, from its cache.

    Raises:
      ConfigError: the address is none, the hub cannot be reached and nothing is cached, or the
        repository was not published by this program.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(f"{address}: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    hub = _library()
    try:
        folder = hub.snapshot_download(
            match[1],
            revision=match[2],
            allow_patterns=[RECORD, "config.json", "*.safetensors"],
        )
    except _errors(hub) as error:
        raise ConfigError(f"{address}: {_first_line(error)}") from None
    path = pathlib.Path(folder)
    require((path / RECORD).is_file(), f"{address} holds no {RECORD}: rtda_jax did not publish it")
    return path


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError(
            "the Hugging Face Hub needs a package: pip install 'rtda_jax[hub]'"
        ) from None
    return huggingface_hub


def _errors(hub: Any) -> tuple[type[Exception], ...]:
    """Returns what the hub's package raises: OSError, and errors of its HTTP library."""
    return (ValueError, OSError, *hub.errors.HfHubHTTPError.__bases__)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def find_workdir(source: str, *, workdir: str | None, weights: str | None) -> pathlib.Path:
    """Returns the folder of the run.

    Args:
      source: what --config names; runs/fda_mbt for `fda_mbt`, runs/fda_mbt-X for `fda_mbt:X`.
      workdir: the value of --workdir, or None.
      weights: the value of --weights, which `find` reads, or None.

    Raises:
      ConfigError: `weights` names no folder, `workdir` is a file or below one, or both flags are
        given.
    """
    if weights is not None:
        require(workdir is None, "--weights and --workdir both name a trained workdir; give one")
        return find(weights)
    if workdir is not None:
        folder = pathlib.Path(workdir).expanduser()
        for path in (folder, *folder.parents):
            usable = path.is_dir() or not path.exists()
            require(usable, f"--workdir={workdir}: {path} is not a folder")
        return folder
    file, _, argument = source.partition(":")
    return pathlib.Path("runs") / (pathlib.Path(file).stem + (f"-{argument}" if argument else ""))
