"""A few things done at the same time, all of them waited for, whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self

from phaul import interrupts

# More than there ever are to do: who waits for another must not keep it from its thread.
WORKERS = 256


class Crew:
    """Threads that end with the block. A failure (or a signal in the main thread) stops the others first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="crew")
        self._futures: list[Future[Any]] = []
        self._stops: list[Callable[[], None]] = []

    def add(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future = self._pool.submit(work, *args, **kwargs)
        self._futures.append(future)
        return future

    def stop_with(self, stop: Callable[[], None]) -> None:
        """Call this to make a worker end early (close its link, kill its command)."""
        self._stops.append(stop)

    def join(self) -> None:
        """Wait for what was added; raises the first failure."""
        futures, self._futures = self._futures, []
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            self._futures = [future for future in futures if not future.done()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with interrupts.shielded():
            if kind is not None:
                for stop in self._stops:
                    with contextlib.suppress(Exception):
                        stop()
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
