"""Checksums of a checkpoint: sealed before it becomes visible, verified before it is read."""

import hashlib
import json
import pathlib
import shutil

from rtda_jax.errors import CheckpointError
from rtda_jax.run import disk
from rtda_jax.run.records import say

MANIFEST = "sha256.json"
PARTIAL = "*.orbax-checkpoint-tmp*"  # what orbax calls a checkpoint that is not yet complete
# Written after the seal; a state is restored without the last two.
UNSEALED = (MANIFEST, "commit_success.txt", "_CHECKPOINT_METADATA")
ASIDE = "damaged"


def seal(folder: pathlib.Path) -> None:
    """Write the size and SHA-256 of every file of a folder into it, all of it on the disk."""
    files = {}
    for path in _files(folder):
        disk.flush(path)
        files[str(path.relative_to(folder))] = [path.stat().st_size, _digest(path)]
    disk.replace(folder / MANIFEST, json.dumps(files, indent=1).encode())
    for path in (*folder.rglob("*"), folder.parent):
        if path.is_dir():
            disk.flush_folder(path)


def seal_partial(directory: pathlib.Path) -> None:
    """Seal the checkpoint that is about to be complete; its renaming then shows both at once."""
    for folder in directory.glob(PARTIAL):
        seal(folder)


def sealed(folder: pathlib.Path) -> bool:
    """Whether a checkpoint can be verified; one of a release before seals can not."""
    return (folder / MANIFEST).exists()


def set_aside(folder: pathlib.Path, *, why: str) -> str:
    """Move a checkpoint where nothing looks for one, and say so; earlier ones of its step stay."""
    where = folder.parent.parent / ASIDE
    where.mkdir(exist_ok=True)
    new, number = where / folder.name, 1
    while new.exists():
        new, number = where / f"{folder.name}-{number}", number + 1
    folder.rename(new)
    sentence = f"the checkpoint of step {folder.name} is damaged: {why}; moved to {new}"
    say(f"  WARNING: {sentence}")
    return sentence


def problem(folder: pathlib.Path) -> str:
    """What is wrong with a sealed folder, naming the first file; empty if nothing is.

    A folder without a seal comes from a release before seals and has no known problem.
    """
    if not sealed(folder):
        return ""
    try:
        expected = json.loads((folder / MANIFEST).read_text())
        rows = {name: (int(size), str(digest)) for name, (size, digest) in expected.items()}
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        return f"{MANIFEST} can not be read: {error}"
    for name in UNSEALED:
        rows.pop(name, None)
    found = {str(p.relative_to(folder)): p for p in _files(folder)}
    if found.keys() != rows.keys():
        odd = sorted(found.keys() ^ rows.keys())[0]
        return f"{odd} is {'missing' if odd in rows else 'not part of it'}"
    for name, (size, digest) in rows.items():
        try:
            if (there := found[name].stat().st_size) != size:
                return f"{name} has {there} of {size} bytes"
            if _digest(found[name]) != digest:
                return f"{name} is not what was written (SHA-256 differs)"
        except OSError as error:
            return f"{name} can not be read: {error}"
    return ""


def recover(directory: pathlib.Path) -> None:
    """Leave a healthy checkpoint as the newest: remove partial ones, set damaged ones aside.

    Damaged checkpoints are moved to `damaged/` beside the directory, never deleted.

    Raises:
      CheckpointError: there were checkpoints and none is healthy.
    """
    for folder in directory.glob(PARTIAL):
        shutil.rmtree(folder)
    said: list[str] = []
    for step in _steps(directory):
        folder = directory / str(step)
        wrong = problem(folder)
        if not wrong:
            if not sealed(folder):
                say(f"  checkpoint of step {step} has no {MANIFEST} to verify it by: used as it is")
            if said:
                say(f"  the checkpoint of step {step} is used in its place")
            return
        said.append(set_aside(folder, why=wrong))
    if said:
        raise CheckpointError(none_left(directory, said))


def newest(directory: pathlib.Path) -> int | None:
    """The newest step with a healthy checkpoint, for who only reads: nothing is moved or deleted.

    What is passed over is said. Another process may be writing there.
    """
    for step in _steps(directory):
        wrong = problem(directory / str(step))
        if not wrong:
            return step
        say(f"  WARNING: {directory}: the checkpoint of step {step} is damaged: {wrong}; not read")
    return None


def none_left(directory: pathlib.Path, said: list[str]) -> str:
    """The sentences of a run whose checkpoints all had to be set aside."""
    rows = [f"{directory} holds no healthy checkpoint:", *said]
    return "\n  ".join(rows) + "\nThe same command now starts from the first step."


def damaged(directory: pathlib.Path) -> bool:
    """Whether the newest checkpoint fails its verification, or was set aside for that.

    A directory that never had checkpoints, or whose checkpoints were deleted, is not damaged.
    """
    newest = max(_steps(directory), default=-1)
    aside = directory.parent / ASIDE
    steps = (p.name.partition("-")[0] for p in aside.glob("*"))
    if newest < max((int(step) for step in steps if step.isdecimal()), default=-1):
        return True
    return newest >= 0 and bool(problem(directory / str(newest)))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and str(p.relative_to(folder)) not in UNSEALED
    )


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _steps(directory: pathlib.Path) -> list[int]:
    """Steps that have a checkpoint, the newest first."""
    return sorted((int(p.name) for p in directory.glob("*") if p.name.isdecimal()), reverse=True)
