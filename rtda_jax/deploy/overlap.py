"""Threads beside the computation, with bounded queues: memory does not grow with the input."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], *, depth: int) -> Iterator[T]:
    """The items in order, made by a thread that is at most `depth` of them ahead."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        running: collections.deque[Future] = collections.deque()
        for _ in range(depth):
            running.append(pool.submit(next, iterator, end))
        while (item := running.popleft().result()) is not end:
            running.append(pool.submit(next, iterator, end))
            yield item


@contextlib.contextmanager
def behind(write: Callable[[T], None], *, depth: int) -> Iterator[Callable[[T], None]]:
    """A function that has a thread write its items in order and waits while `depth` are left.

    An error of `write` is raised by a later call, or at the end of the context.
    """
    running: collections.deque[Future] = collections.deque()

    def put(item: T) -> None:
        if len(running) >= depth:
            running.popleft().result()
        running.append(pool.submit(write, item))

    with ThreadPoolExecutor(1) as pool:
        yield put
        while running:
            running.popleft().result()
