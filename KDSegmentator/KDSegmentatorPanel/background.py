"""Work that does not hold up the user."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class BackgroundThread:
    """Works things out one after the other, in a thread of its own.

    Unlike ``concurrent.futures.ThreadPoolExecutor`` it is not waited for when Python ends: closing Slicer shall not
    take as long as estimates or a comparison.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Result], /) -> Future[Result]:
        """Have it worked out after what was submitted before.

        Raises:
            RuntimeError: after :meth:`close`.
        """
        if self._closed:
            raise RuntimeError("the thread was closed")
        future: Future[Result] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._work.put(work)
        return future

    def close(self) -> None:
        """End the thread after what was submitted before; does not wait for that."""
        if not self._closed:
            self._closed = True
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # else what it holds, a volume for example, stays until the next one
