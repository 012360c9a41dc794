"""Prepare the next pictures in background threads while the model works on this one.

Source: "The big-model vision breakthrough: how Open-AutoGLM rebuilds multi-scale perception", section 3.1 (load the next batch
ahead); "Three hidden features of Open-AutoGLM's visual recognition", section 2.5 (asynchronous prefetch).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Source = TypeVar("Source")
Prepared = TypeVar("Prepared")


def prefetched(
    sources: Iterable[Source], prepare: Callable[[Source], Prepared], ahead: int = 4, threads: int = 2
) -> Iterator[Prepared]:
    """`prepare` of each source, in order, with at most `ahead` results waiting or under way.

    An error of `prepare` comes out at its place and ends the iteration. Close the iterator (or finish it) to end the threads.
    """
    if ahead < 1 or threads < 1:
        raise ValueError("prefetching needs at least one thread and one result ahead")
    return _run(iter(sources), prepare, ahead, threads)


def _run(
    sources: Iterator[Source], prepare: Callable[[Source], Prepared], ahead: int, threads: int
) -> Iterator[Prepared]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    waiting: deque[Future[Prepared]] = deque()
    try:
        for source in sources:
            waiting.append(pool.submit(prepare, source))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
