"""A thread that has to live as long as a benchmark: whoever waits for its work hears when it died, and of what."""

import threading
import traceback
from collections.abc import Callable


class HelperDied(RuntimeError):
    """A helper ended, with or without an error of its own; nothing that it does happens any more."""


class Helper:
    """Runs `work`, which shall never return, in a thread of its own; `check` raises once it did."""

    def __init__(self, what: str, work: Callable[[], None]) -> None:
        """`what` names it in errors, such as "the watch of /api/v1/pods". It runs at once."""
        self._what = what
        self._work = work
        self._end = ""
        threading.Thread(target=self._run, name=what, daemon=True).start()

    def check(self) -> None:
        """Raises `HelperDied` if it does not run any more."""
        if self._end:
            raise HelperDied(f"{self._what} {self._end}")

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:  # noqa: BLE001 - told by whoever waits
            self._end = f"died:\n{traceback.format_exc()}"
        else:
            self._end = "ended, though it should go on: the API server closed the connection"
