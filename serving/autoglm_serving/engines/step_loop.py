"""One worker thread that runs several answers at once: a token of each in turn, and one slice of one prompt between them.

So nobody waits for more than a slice of somebody else's prompt, and a cancelled answer is gone after the slice it is in.
The thread owns the model: whoever wants tokens submits a job and gets its steps by a callback. A job that fails takes
nobody with it. If the model fails its self-check after that, or the thread itself breaks, the loop is dead for good.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
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
        """The state of an answer whose prompt is to be read."""

    def read(self, state: State, others: Sequence[State]) -> bool:
        """Read one slice of a prompt; True when it is read to its end. `others` are the prompts that wait."""

    def reused(self, state: State) -> int:
        """Tokens of a prompt that were known and not computed."""

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
    ready: bool = False
    """The prompt is read."""
    slices: int = 0
    """Slices of the prompt that were read."""
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
        self._rounds = 0
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

    def stop(self, patience_s: float | None = None) -> None:
        """End the thread after the step it is in; open jobs get EngineDead. Idempotent.

        With `patience_s` a step that does not end is left alone after so long.
        """
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def abandon(self, reason: str) -> None:
        """The model is lost, and the thread may wait for it for ever: open jobs get EngineDead now. From any thread."""
        self._stopping.set()
        self._die(reason)
        self._inbox.put(None)

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
            self.death = self.death or reason
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
            job.cancel()

    def _round(self, runner: Runner[State]) -> None:
        """Take in what came, read one slice of one prompt at most, then give one token of each answer."""
        self._take_in()
        reading = [job for job in self._active if not job.ready]
        if reading:
            self._read(runner, reading)
        for job in [job for job in self._active if job.ready]:
            if self._stopping.is_set():
                return
            if job.cancelled.is_set() or self._step(runner, job):
                self._forget(job)

    def _take_in(self) -> None:
        """Jobs that came; blocks when there is nothing else to do. Cancelled ones go, whatever they were at."""
        job = self._next_job(wait=not self._active)
        while job is not None:
            self._active.append(job)
            job = self._next_job(wait=False)
        self._active = [job for job in self._active if not job.cancelled.is_set()]

    def _read(self, runner: Runner[State], reading: list[Job[State]]) -> None:
        """One slice. The oldest prompt and the one that was read least take turns: none starves, short ones pass long ones."""
        self._rounds += 1
        chosen = reading[0] if self._rounds % 2 else min(reading, key=lambda job: job.slices)
        try:
            if chosen.state is None:
                chosen.state = runner.start(chosen.prompt, chosen.request)
            others = [job.state for job in reading if job is not chosen and job.state is not None]
            chosen.slices += 1
            chosen.ready = runner.read(chosen.state, others)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on
            _fail(runner, chosen, error)
            self._forget(chosen)

    def _forget(self, job: Job[State]) -> None:
        with self._lock:
            if job in self._active:  # not when the loop was abandoned meanwhile
                self._active.remove(job)

    def _next_job(self, wait: bool) -> Job[State] | None:
        try:
            return self._inbox.get(block=wait)
        except queue.Empty:
            return None

    def _step(self, runner: Runner[State], job: Job[State]) -> bool:
        """One token of one job; True when the job is over."""
        assert job.state is not None
        try:
            token = runner.next_token(job.state)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on
            _fail(runner, job, error)
            return True
        job.produced += 1
        step = _token_step(token, job, runner)
        return not _emit(job, step) or step.finish is not None


def _fail(runner: Runner[State], job: Job[State], error: Exception) -> None:
    """Tell the job's listener, unless the model cannot compute any more: then the loop ends, and this job with it."""
    log.warning("request %s failed in the engine", job.request.request_id, exc_info=error)
    runner.self_check()
    _emit(job, _failure(error))


def _token_step(token: int, job: Job[State], runner: Runner[State]) -> TokenStep:
    assert job.state is not None
    reused = runner.reused(job.state)
    if token in runner.end_ids:
        return TokenStep((), 1, "stop", reused)
    return TokenStep((token,), 1, "length" if job.produced >= job.prompt.max_new_tokens else None, reused)


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
