"""Checkpoints: arrays written by orbax, sealed by checksums and verified before they are read.

A checkpoint's seal lists the size and SHA-256 of its files. It is written before the checkpoint
gets its final name, so that no complete checkpoint lacks it.

A training stage opens a `manager`, which calls `recover` so that the newest checkpoint is healthy;
`save` then writes states, and `resume` restores the newest one. Code that only reads a finished
stage opens a `reader`, asks `newest_healthy` for a step, and reads fields of its state with
`restore_only`.

Importing this module silences the warnings of orbax.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rtda_jax.errors import CheckpointError
from rtda_jax.run import files, parallel
from rtda_jax.run.files import fsync, fsync_folder, sha256, write_bytes
from rtda_jax.run.log import say

MANIFEST = "sha256.json"
_LARGEST_SEAL = 2**24  # bytes
PARTIAL = "*.orbax-checkpoint-tmp*"  # orbax's name for a checkpoint that is not complete
# Files that a seal does not list: the seal itself, and two that orbax writes later and can do
# without.
UNSEALED = (MANIFEST, "commit_success.txt", "_CHECKPOINT_METADATA")
DAMAGED_FOLDER = "damaged"

# Errors that orbax logs are also raised, and `_writing` turns them into messages. Its warnings are
# about its own defaults. asyncio would log the errors of orbax's tasks a second time.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def manager(directory: pathlib.Path, *, keep: int) -> Iterator[ocp.CheckpointManager]:
    """Yields an orbax manager that keeps the newest checkpoints; leaving it waits for its writes.

    The newest checkpoint is complete and verified, see `recover`.

    Args:
      directory: the folder of the checkpoints; created if it does not exist.
      keep: how many of them are kept; 2 or more, so that one is left if another is damaged.

    Raises:
      CheckpointError: a write failed, or no checkpoint is healthy.
    """
    directory = directory.resolve()
    parallel.barrier("checkpoints, before recovery")
    if parallel.is_main():
        recover(directory)
    parallel.barrier("checkpoints, after recovery")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep),
        create=True,
        # Called when all files are written, just before their folder gets its final name.
        async_options=ocp.options.AsyncOptions(
            post_finalization_callback=functools.partial(seal_partial, directory)
        ),
    )
    orbax = _open(directory, options)
    try:
        yield orbax
    except BaseException as error:
        if not parallel.peer_died(error):  # otherwise close() would wait for a dead process
            with contextlib.suppress(Exception):  # the error that ended the block is raised
                orbax.close()
        raise
    with _writing(directory):
        orbax.close()
    fsync_folder(directory)


@contextlib.contextmanager
def reader(directory: pathlib.Path) -> Iterator[ocp.CheckpointManager]:
    """Yields an orbax manager that changes nothing, for a folder where another process may train.

    `newest_healthy` says which of its steps to read.

    Raises:
      CheckpointError: the folder does not hold checkpoints.
    """
    orbax = _open(directory.resolve(), ocp.CheckpointManagerOptions(read_only=True, create=False))
    try:
        yield orbax
    finally:
        orbax.close()


def _open(directory: pathlib.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    try:
        return ocp.CheckpointManager(directory, options=options)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{directory}: not what this program writes: {error}") from error


def save(orbax: ocp.CheckpointManager, state: Any, *, step: int) -> None:
    """Saves a state; returns as soon as the arrays are copied off the devices."""
    if orbax.latest_step() != step:
        with _writing(orbax.directory):
            orbax.save(step, args=ocp.args.StandardSave(state), force=True)


def finish(orbax: ocp.CheckpointManager) -> None:
    """Waits until everything that was saved is on the disk."""
    with _writing(orbax.directory):
        orbax.wait_until_finished()
    fsync_folder(pathlib.Path(orbax.directory))


@contextlib.contextmanager
def _writing(directory: Any) -> Iterator[None]:
    """Turns whatever orbax raises, for example on a full disk, into a CheckpointError."""
    try:
        yield
    except Exception as error:  # orbax passes on any error of its storage
        raise CheckpointError(
            f"{directory}: a checkpoint could not be written: {_reason(error)}\n"
            "Earlier ones are intact; the same command continues from the newest"
        ) from error


def _reason(error: Exception) -> str:
    """Returns the last line of an error; its text may be a traceback from a thread of orbax."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def restore(orbax: ocp.CheckpointManager, abstract: Any, *, step: int | None = None) -> Any:
    """Returns the state of a step (by default the newest), placed on devices like `abstract`.

    Fields that are empty may be missing from the checkpoint, because an earlier release did not
    have them.

    Raises:
      CheckpointError: the checkpoint holds another state, or it is damaged and has no seal that
        would have shown this earlier.
    """
    step = orbax.latest_step() if step is None else step
    with _reading(orbax, step):
        try:
            return orbax.restore(step, args=ocp.args.StandardRestore(abstract))
        except ValueError:
            if not dataclasses.is_dataclass(abstract) or isinstance(abstract, type):
                raise
            fields = {f.name: getattr(abstract, f.name) for f in dataclasses.fields(abstract)}
            filled = {name: value for name, value in fields.items() if jax.tree.leaves(value)}
            if len(filled) == len(fields):
                raise
            restored = orbax.restore(step, args=ocp.args.StandardRestore(filled))
            return dataclasses.replace(abstract, **restored)


def resume(orbax: ocp.CheckpointManager, abstract: Any) -> tuple[int, Any]:
    """Returns the newest step that can be restored, and its state.

    A checkpoint without a seal that cannot be restored is set aside, as `recover` does with a
    sealed one that is damaged.

    Raises:
      CheckpointError: a sealed checkpoint cannot be restored, or none is left.
    """
    problems: list[str] = []
    while step := orbax.latest_step():
        try:
            return step, restore(orbax, abstract, step=step)
        except CheckpointError as error:
            folder = pathlib.Path(orbax.directory) / str(step)
            # Another process of the job may have restored it.
            if is_sealed(folder) or parallel.process()[1] > 1:
                raise
            problems.append(set_aside(folder, why=str(error)))
            orbax.reload()
    raise CheckpointError(none_healthy(pathlib.Path(orbax.directory), problems))


def restore_only(orbax: ocp.CheckpointManager, abstract: dict[str, Any], *, step: int) -> Any:
    """Returns the fields of a step's state that `abstract` names; the others are not read.

    Raises:
      CheckpointError: as `restore` does.
    """
    arguments = ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    with _reading(orbax, step):
        return orbax.restore(step, args=arguments)


@contextlib.contextmanager
def _reading(orbax: ocp.CheckpointManager, step: int | None) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # of this process, which damages no checkpoint
        raise
    except Exception as error:  # a damaged file can raise anything
        if (known := parallel.for_user(error)) is not error:
            raise known from error  # a device without memory left, which damages no checkpoint
        raise CheckpointError(
            f"{orbax.directory}: the checkpoint of step {step} cannot be restored: {error}"
        ) from error


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes and types of a state, with the sharding that it is restored to."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def seal(folder: pathlib.Path) -> None:
    """Writes a seal into a folder, durably: the size and SHA-256 of every file in it."""
    sums = {}
    for path in _files(folder):
        fsync(path)
        sums[str(path.relative_to(folder))] = [path.stat().st_size, sha256(path)]
    write_bytes(folder / MANIFEST, json.dumps(sums, indent=1).encode())
    for path in (*folder.rglob("*"), folder.parent):
        if path.is_dir():
            fsync_folder(path)


def seal_partial(directory: pathlib.Path) -> None:
    """Seals the checkpoint that orbax is about to rename to its final name."""
    for folder in directory.glob(PARTIAL):
        seal(folder)


def is_sealed(folder: pathlib.Path) -> bool:
    """Returns whether a checkpoint can be verified; releases before seals wrote none."""
    return (folder / MANIFEST).exists()


def why_damaged(folder: pathlib.Path) -> str:
    """Returns what is wrong with a sealed folder, naming the first damaged file; "" if intact.

    A folder without a seal comes from a release before seals and has no known problem.
    """
    if not is_sealed(folder):
        return ""
    try:
        manifest = json.loads(files.read(folder / MANIFEST, most=_LARGEST_SEAL))
        expected = {name: (int(size), str(digest)) for name, (size, digest) in manifest.items()}
    except (
        ArithmeticError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        OSError,
    ) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name in UNSEALED:
        expected.pop(name, None)
    present = {str(p.relative_to(folder)): p for p in _files(folder)}
    if present.keys() != expected.keys():
        name = sorted(present.keys() ^ expected.keys())[0]
        return f"{name} is {'missing' if name in expected else 'not part of it'}"
    for name, (size, digest) in expected.items():
        try:
            if (actual := present[name].stat().st_size) != size:
                return f"{name} has {actual} of {size} bytes"
            if sha256(present[name]) != digest:
                return f"{name} is not what was written (SHA-256 differs)"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return ""


def set_aside(folder: pathlib.Path, *, why: str) -> str:
    """Moves a damaged checkpoint to `damaged/`, replacing nothing there; returns the warning."""
    aside = folder.parent.parent / DAMAGED_FOLDER
    aside.mkdir(exist_ok=True)
    new, number = aside / folder.name, 1
    while new.exists():
        new, number = aside / f"{folder.name}-{number}", number + 1
    folder.rename(new)
    sentence = f"the checkpoint of step {folder.name} is damaged: {why}; moved to {new}"
    say(f"  WARNING: {sentence}")
    return sentence


def recover(directory: pathlib.Path) -> None:
    """Ensures that the newest checkpoint is healthy: removes partial ones, sets damaged ones aside.

    Damaged checkpoints are moved to `damaged/` beside the directory, never deleted.

    Raises:
      CheckpointError: there were checkpoints and none is healthy.
    """
    for folder in directory.glob(PARTIAL):
        shutil.rmtree(folder)
    problems: list[str] = []
    for step in _steps(directory):
        folder = directory / str(step)
        why = why_damaged(folder)
        if not why:
            if not is_sealed(folder):
                say(f"  the checkpoint of step {step} has no {MANIFEST}, so it is not verified")
            if problems:
                say(f"  the checkpoint of step {step} is used instead")
            return
        problems.append(set_aside(folder, why=why))
    if problems:
        raise CheckpointError(none_healthy(directory, problems))


def newest_healthy(directory: pathlib.Path) -> int | None:
    """Returns the newest step with a healthy checkpoint, or None; moves and deletes nothing.

    Prints which checkpoints are skipped. Another process may be writing in the same folder.
    """
    for step in _steps(directory):
        why = why_damaged(directory / str(step))
        if not why:
            return step
        say(f"  WARNING: {directory}: the checkpoint of step {step} is damaged: {why}; not read")
    return None


def none_healthy(directory: pathlib.Path, problems: list[str]) -> str:
    """Returns the message for a run whose checkpoints all had to be set aside."""
    rows = [f"{directory} holds no healthy checkpoint:", *problems]
    return "\n  ".join(rows) + "\nThe same command now starts from the first step."


def is_damaged(directory: pathlib.Path) -> bool:
    """Returns whether the newest checkpoint fails its verification or was set aside as damaged.

    A directory that never had checkpoints, or whose checkpoints were deleted, is not damaged.
    """
    newest = max(_steps(directory), default=-1)
    aside = directory.parent / DAMAGED_FOLDER
    steps = (p.name.partition("-")[0] for p in aside.glob("*"))
    if newest < max((int(step) for step in steps if step.isdecimal()), default=-1):
        return True
    return newest >= 0 and bool(why_damaged(directory / str(newest)))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and str(p.relative_to(folder)) not in UNSEALED
    )


def _steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps that have a checkpoint, newest first."""
    return sorted((int(p.name) for p in directory.glob("*") if p.name.isdecimal()), reverse=True)
