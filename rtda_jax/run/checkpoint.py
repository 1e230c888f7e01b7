"""Checkpoints: arrays through orbax, the configuration that made them as JSON beside them."""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.run import disk, integrity, parallel


@contextlib.contextmanager
def manager(directory: pathlib.Path, *, keep: int) -> Iterator[ocp.CheckpointManager]:
    """An orbax manager that keeps the newest checkpoints; leaving it waits for its writes.

    Its newest checkpoint is complete and verified: see `integrity.recover`.

    Raises:
      ConfigError: fewer than two are to be kept, so that none is left if one is damaged.
      CheckpointError: a write failed, or none of the checkpoints is healthy.
    """
    if keep < 2:
        raise ConfigError(f"checkpoint_keep must be 2 or more, got {keep}")
    directory = directory.resolve()
    parallel.together("checkpoints, before")
    if parallel.is_main():
        integrity.recover(directory)
    parallel.together("checkpoints, after")
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep),
        create=True,
        # Called when all files are written and just before their folder gets its name.
        async_options=ocp.options.AsyncOptions(
            post_finalization_callback=functools.partial(integrity.seal_partial, directory)
        ),
    )
    held = _opened(directory, options)
    try:
        yield held
    except BaseException as error:
        if not parallel.lost(error):  # else its writes wait for a process that is gone
            with contextlib.suppress(Exception):  # why it ends is raised, not what that breaks
                held.close()
        raise
    with _writing(directory):
        held.close()
    disk.flush_folder(directory)


@contextlib.contextmanager
def reader(directory: pathlib.Path) -> Iterator[ocp.CheckpointManager]:
    """An orbax manager of a directory that this process may only read; see `integrity.newest`.

    It changes nothing, so that it can be open while another process trains there.

    Raises:
      CheckpointError: it holds something else.
    """
    held = _opened(directory.resolve(), ocp.CheckpointManagerOptions(read_only=True, create=False))
    try:
        yield held
    finally:
        held.close()


def _opened(
    directory: pathlib.Path, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
    # What orbax and its tasks log as an error is also raised, and `_writing` says it in a sentence.
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        return ocp.CheckpointManager(directory, options=options)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{directory}: not what this program writes: {error}") from error


def save(held: ocp.CheckpointManager, state: Any, *, step: int) -> None:
    """Write a state; returns as soon as the arrays are copied off the devices."""
    if held.latest_step() != step:
        with _writing(held.directory):
            held.save(step, args=ocp.args.StandardSave(state), force=True)


def finish(held: ocp.CheckpointManager) -> None:
    """Wait until all that was saved is on the disk."""
    with _writing(held.directory):
        held.wait_until_finished()
    disk.flush_folder(pathlib.Path(held.directory))


@contextlib.contextmanager
def _writing(directory: Any) -> Iterator[None]:
    """Whatever orbax raises for a full disk or the like, in a sentence."""
    try:
        yield
    except Exception as error:  # orbax passes on whatever its storage raises
        raise CheckpointError(
            f"{directory}: a checkpoint could not be written: {_reason(error)}\n"
            "Earlier ones are as they were; the same command continues from the newest"
        ) from error


def _reason(error: Exception) -> str:
    """The last line of an error, whose text may be a traceback from a thread of orbax."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def restore(held: ocp.CheckpointManager, abstract: Any, *, step: int | None = None) -> Any:
    """The state of a step (default the newest), on whatever devices `abstract` is laid out.

    Fields that are empty may be absent from the checkpoint: an earlier release did not have them.

    Raises:
      CheckpointError: it holds another state, or is damaged and has no seal that told so.
    """
    step = held.latest_step() if step is None else step
    with _reading(held, step):
        try:
            return held.restore(step, args=ocp.args.StandardRestore(abstract))
        except ValueError:
            if not dataclasses.is_dataclass(abstract) or isinstance(abstract, type):
                raise
            fields = {f.name: getattr(abstract, f.name) for f in dataclasses.fields(abstract)}
            filled = {name: value for name, value in fields.items() if jax.tree.leaves(value)}
            if len(filled) == len(fields):
                raise
            restored = held.restore(step, args=ocp.args.StandardRestore(filled))
            return dataclasses.replace(abstract, **restored)


def resume(held: ocp.CheckpointManager, abstract: Any) -> tuple[int, Any]:
    """The newest step that can be restored, and its state.

    One without a seal that can not be is set aside, as `integrity.recover` does with a sealed one
    that is damaged.

    Raises:
      CheckpointError: a sealed one can not be restored, or none is left.
    """
    said: list[str] = []
    while step := held.latest_step():
        try:
            return step, restore(held, abstract, step=step)
        except CheckpointError as error:
            folder = pathlib.Path(held.directory) / str(step)
            # Of several processes another one may have restored it.
            if integrity.sealed(folder) or parallel.process()[1] > 1:
                raise
            said.append(integrity.set_aside(folder, why=str(error)))
            held.reload()
    raise CheckpointError(integrity.none_left(pathlib.Path(held.directory), said))


def restore_only(held: ocp.CheckpointManager, abstract: dict[str, Any], *, step: int) -> Any:
    """Some fields of a step's state, by name; the others are not read.

    Raises:
      CheckpointError: as `restore` does.
    """
    arguments = ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    with _reading(held, step):
        return held.restore(step, args=arguments)


@contextlib.contextmanager
def _reading(held: ocp.CheckpointManager, step: int | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(
            f"{held.directory}: the checkpoint of step {step} can not be restored: {error}"
        ) from error


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Shapes, types and the wished sharding of a state."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replace a JSON file in one move: a reader sees the old one or the new one.

    Of several processes the main one writes.
    """
    if not parallel.is_main():
        return
    disk.replace(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What `write_json` wrote; ConfigError naming the file if it holds something else."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not the JSON this program writes there: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def claim(workdir: pathlib.Path, config: dict, *, free: tuple[str, ...]) -> None:
    """Bind a workdir to a configuration, or refuse it if it belongs to another one.

    Args:
      workdir: created if need be.
      config: nested plain values.
      free: dotted prefixes of fields that may differ between runs of one workdir.

    Raises:
      ConfigError: naming every differing field with both values.
    """
    path = workdir / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        theirs, ours = flat(read_json(path)), flat(config)
        differing = [
            f"  {field}: {theirs.get(field, 'absent')!r} there, {ours.get(field, 'absent')!r} now"
            for field in sorted(theirs.keys() | ours.keys())
            if theirs.get(field) != ours.get(field)
            and not any(field == f or field.startswith(f + ".") for f in free)
        ]
        if differing:
            raise ConfigError(
                f"{workdir} holds a run of another configuration:\n"
                + "\n".join(differing)
                + "\nChoose another --workdir, or give the configuration it was made with."
            )
        return
    write_json(path, config)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as one of dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
