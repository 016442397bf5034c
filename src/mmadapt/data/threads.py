"""Work in threads, results in order: decoding and CPU kernels release Python's lock, so threads are enough.

Against worker processes: nothing to start, to pickle, to leak or to run out of shared memory, and an error keeps
its type.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def ordered_map(
    function: Callable[[S], T], items: Iterable[S], workers: int, *, ahead: int | None = None
) -> Generator[T]:
    """Yield ``function(item)`` of all items in order.

    Every call sees one torch thread, so a result does not depend on the number of workers or cores. An error
    of a call is raised where its result would have come. When the iterator is closed, calls that have not
    begun are dropped and those that run are waited for.

    Args:
        function: Called from several threads at once.
        items: Its arguments.
        workers: Number of threads; 0 works in the calling thread, an item at a time.
        ahead: Results held at most, those being computed included; ``workers + 1`` if None.
    """
    threads = torch.get_num_threads()
    if workers == 0:
        for item in items:
            torch.set_num_threads(1)
            try:
                result = function(item)
            finally:
                torch.set_num_threads(threads)
            yield result
        return
    pool = ThreadPoolExecutor(workers, "mmadapt", initializer=torch.set_num_threads, initargs=(1,))
    running: deque[Future[T]] = deque()
    source = iter(items)
    try:
        running.extend(pool.submit(function, item) for item in islice(source, ahead or workers + 1))
        while running:
            result = running.popleft().result()
            yield result
            running.extend(pool.submit(function, item) for item in islice(source, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # MKL's own number is one for all threads


def cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
