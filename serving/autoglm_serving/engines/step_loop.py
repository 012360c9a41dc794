"""One worker thread that runs several answers at once, one token of each in turn.

The thread owns the model: whoever wants tokens submits a job and gets its steps by a callback. A job that fails takes
nobody with it. If the model fails its self-check after that, or the thread itself breaks, the loop is dead for good.
"""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from autoglm_serving.engines.base import TokenStep
from autoglm_serving.engines.interface import EngineDead, GenerateRequest, GenerationFailed
from autoglm_serving.engines.prompt import Prompt

log = logging.getLogger(__name__)

State = TypeVar("State")
Emit = Callable[[TokenStep | Exception], None]


class Runner(Protocol[State]):
    """A model, used from the worker thread alone."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def start(self, prompt: Prompt, request: GenerateRequest) -> State:
        """Read the prompt."""

    def next_token(self, state: State) -> int:
        """The answer's next token."""

    def self_check(self) -> None:
        """Raise if the model cannot compute any more."""


@dataclass(eq=False)
class Job(Generic[State]):
    """One answer. `cancel` may be called from any thread; no callback comes for the steps after it."""

    prompt: Prompt
    request: GenerateRequest
    emit: Emit
    state: State | None = None
    produced: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Drop the job before its next step."""
        self.cancelled.set()


class StepLoop(Generic[State]):
    """The thread and its jobs."""

    def __init__(self, make_runner: Callable[[], Runner[State]]) -> None:
        self._make_runner = make_runner
        self._inbox: queue.SimpleQueue[Job[State] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._active: list[Job[State]] = []
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._start_error: BaseException | None = None
        self.death: str | None = None
        self._thread = threading.Thread(target=self._main, name="autoglm-steps", daemon=True)

    def start(self) -> None:
        """Make the runner in the thread; blocks until it is there and raises what it raised."""
        self._thread.start()
        self._ready.wait()
        if self._start_error is not None:
            raise self._start_error

    def submit(self, job: Job[State]) -> None:
        """Hand over a job. Raises EngineDead when nothing will ever run it."""
        with self._lock:
            if self.death is not None:
                raise EngineDead(self.death)
            self._inbox.put(job)

    def stop(self) -> None:
        """End the thread after the step it is in; open jobs get EngineDead. Idempotent."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        try:
            runner = self._make_runner()
        except BaseException as error:  # noqa: BLE001 - `start` raises it in the thread that waits
            self._start_error = error
            self._die("the model could not be loaded")
            self._ready.set()
            return
        self._ready.set()
        reason = "the engine is closed"
        try:
            while not self._stopping.is_set():
                self._round(runner)
        except BaseException as error:
            log.exception("the step loop broke")
            reason = f"the step loop broke: {type(error).__name__}"
        self._die(reason)

    def _die(self, reason: str) -> None:
        with self._lock:
            self.death = reason
            jobs, self._active = self._active, []
            while True:
                try:
                    job = self._inbox.get_nowait()
                except queue.Empty:
                    break
                if job is not None:
                    jobs.append(job)
        for job in jobs:
            _emit(job, EngineDead(reason))

    def _round(self, runner: Runner[State]) -> None:
        """Read one new prompt at most, then one token of each answer: nobody waits for more than one prompt."""
        new = self._next_job(wait=not self._active)
        if new is not None and not new.cancelled.is_set():
            self._active.append(new)
        for job in tuple(self._active):
            if self._stopping.is_set():
                return
            if job.cancelled.is_set() or self._step(runner, job):
                self._active.remove(job)

    def _next_job(self, wait: bool) -> Job[State] | None:
        try:
            return self._inbox.get(block=wait)
        except queue.Empty:
            return None

    def _step(self, runner: Runner[State], job: Job[State]) -> bool:
        """One token of one job; True when the job is over."""
        try:
            if job.state is None:
                job.state = runner.start(job.prompt, job.request)
            token = runner.next_token(job.state)
        except Exception as error:
            log.warning("request %s failed in the engine", job.request.request_id, exc_info=error)
            runner.self_check()  # its error, if any, ends the loop, and this job with it
            _emit(job, _failure(error))
            return True
        job.produced += 1
        step = _token_step(token, job, runner.end_ids)
        return not _emit(job, step) or step.finish is not None


def _token_step(token: int, job: Job[State], end_ids: frozenset[int]) -> TokenStep:
    if token in end_ids:
        return TokenStep((), 1, "stop")
    return TokenStep((token,), 1, "length" if job.produced >= job.prompt.max_new_tokens else None)


def _failure(error: Exception) -> GenerationFailed:
    if isinstance(error, GenerationFailed):
        return error
    failure = GenerationFailed(f"{type(error).__name__} in the engine")
    failure.__cause__ = error
    return failure


def _emit(job: Job[State], item: TokenStep | Exception) -> bool:
    """False if nobody listens any more."""
    if job.cancelled.is_set():
        return False
    try:
        job.emit(item)
    except RuntimeError:  # the listener's event loop is closed
        return False
    return True
