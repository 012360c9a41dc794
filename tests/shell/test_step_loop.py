"""The worker thread that interleaves answers, with a scripted model in place of torch."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from typing_extensions import override

from autoglm_serving.engines.base import TokenStep
from autoglm_serving.engines.interface import EngineDead, GenerateRequest, GenerationFailed
from autoglm_serving.engines.prompt import Prompt
from autoglm_serving.engines.step_loop import Job, Runner, StepLoop
from autoglm_serving.model.load import ImageSize

END = 99
WAIT_S = 60


@dataclass
class Script:
    """The tokens still to come, for one answer."""

    name: str
    tokens: list[int | Exception]
    slices: int = 1


@dataclass
class ScriptedRunner(Runner[Script]):
    """Answers by script; `before_step` runs in the worker thread ahead of each token."""

    scripts: dict[str, list[int | Exception]]
    trace: list[str] = field(default_factory=list)
    before_step: Callable[[str], None] = lambda name: None
    sick: bool = False

    @property
    @override
    def end_ids(self) -> frozenset[int]:
        return frozenset({END})

    @override
    def start(self, prompt: Prompt, request: GenerateRequest) -> Script:
        self.trace.append(f"{request.request_id}:start")
        return Script(request.request_id, list(self.scripts[request.request_id]))

    @override
    def read(self, state: Script, others: Sequence[Script]) -> bool:
        self.trace.append(f"{state.name}:read")
        state.slices -= 1
        return state.slices <= 0

    @override
    def reused(self, state: Script) -> int:
        return 0

    @override
    def next_token(self, state: Script) -> int:
        self.before_step(state.name)
        token = state.tokens.pop(0)
        self.trace.append(state.name)
        if isinstance(token, Exception):
            raise token
        return token

    @override
    def self_check(self) -> None:
        if self.sick:
            raise RuntimeError("device lost")


class Listener:
    """Collects what one job emits."""

    def __init__(self, name: str, max_new_tokens: int = 100) -> None:
        self.items: queue.SimpleQueue[TokenStep | Exception] = queue.SimpleQueue()
        prompt = Prompt((1, 2), (), ImageSize(1, 1), (), 7, max_new_tokens)
        self.job: Job[Script] = Job(prompt, GenerateRequest(name, (), max_new_tokens), self.items.put)

    def next(self) -> TokenStep | Exception:
        return self.items.get(timeout=WAIT_S)

    def all(self) -> list[TokenStep | Exception]:
        items = [self.next()]
        while isinstance(step := items[-1], TokenStep) and step.finish is None:
            items.append(self.next())
        return items

    def ids(self) -> list[int]:
        return [index for item in self.all() if isinstance(item, TokenStep) for index in item.ids]


class HeldStep:
    """The worker thread stops ahead of this answer's tokens until `go_on` is set."""

    def __init__(self, runner: ScriptedRunner, name: str) -> None:
        self._name, self._reached = name, threading.Event()
        self.go_on = threading.Event()
        runner.before_step = self._hold

    def wait(self) -> None:
        assert self._reached.wait(WAIT_S)

    def _hold(self, name: str) -> None:
        if name == self._name:
            self._reached.set()
            assert self.go_on.wait(WAIT_S)


Make = Callable[[ScriptedRunner], StepLoop[Script]]


@pytest.fixture
def make() -> Iterator[Make]:
    loops: list[StepLoop[Script]] = []

    def start(runner: ScriptedRunner) -> StepLoop[Script]:
        loop = StepLoop(lambda: runner)
        loops.append(loop)
        loop.start()
        return loop

    yield start
    for loop in loops:
        loop.stop()


def test_an_answer_ends_at_an_end_token_that_is_counted_but_not_given(make: Make) -> None:
    loop = make(ScriptedRunner({"a": [5, 6, END, 7]}))
    listener = Listener("a")
    loop.submit(listener.job)
    assert listener.all() == [TokenStep((5,), 1, None), TokenStep((6,), 1, None), TokenStep((), 1, "stop")]


def test_an_answer_ends_at_its_bound(make: Make) -> None:
    loop = make(ScriptedRunner({"a": [5, 6, 7]}))
    listener = Listener("a", max_new_tokens=2)
    loop.submit(listener.job)
    assert listener.all() == [TokenStep((5,), 1, None), TokenStep((6,), 1, "length")]


def test_answers_take_turns_token_by_token(make: Make) -> None:
    both_are_in = threading.Event()
    runner = ScriptedRunner({"a": [1, 1, 1, END], "b": [2, 2, 2, END]})
    runner.before_step = lambda name: None if both_are_in.wait(WAIT_S) else pytest.fail("the second job never came")
    loop = make(runner)
    a, b = Listener("a"), Listener("b")
    loop.submit(a.job)
    loop.submit(b.job)
    both_are_in.set()
    assert (a.ids(), b.ids()) == ([1, 1, 1], [2, 2, 2])
    assert runner.trace == ["a:start", "a:read", "a", "b:start", "b:read", "a", "b", "a", "b", "a", "b", "b"]


def test_a_cancelled_answer_gets_no_further_step(make: Make) -> None:
    runner = ScriptedRunner({"a": [1, 1, 1, 1], "b": [2, END]})
    held = HeldStep(runner, "a")
    loop = make(runner)
    a, b = Listener("a"), Listener("b")
    loop.submit(a.job)
    held.wait()
    a.job.cancel()
    held.go_on.set()
    loop.submit(b.job)
    assert b.ids() == [2]
    assert runner.trace.count("a") == 1
    assert a.items.empty()


def test_a_job_that_was_cancelled_before_its_turn_is_never_started(make: Make) -> None:
    runner = ScriptedRunner({"a": [1, END], "b": [2, END]})
    loop = make(runner)
    a, b = Listener("a"), Listener("b")
    a.job.cancel()
    loop.submit(a.job)
    loop.submit(b.job)
    assert b.ids() == [2]
    assert "a:start" not in runner.trace


def test_a_failing_answer_takes_nobody_with_it(make: Make) -> None:
    loop = make(ScriptedRunner({"bad": [1, ValueError("secret path")], "good": [*[2] * 20, END]}))
    bad, good = Listener("bad"), Listener("good")
    loop.submit(good.job)
    loop.submit(bad.job)
    failure = bad.all()[-1]
    assert isinstance(failure, GenerationFailed)
    assert "secret" not in str(failure)
    assert isinstance(failure.__cause__, ValueError)
    assert good.ids() == [2] * 20
    assert loop.death is None


def test_a_prompt_that_cannot_be_read_fails_alone(make: Make) -> None:
    loop = make(ScriptedRunner({"good": [2, END]}))
    bad, good = Listener("there is no such script"), Listener("good")
    loop.submit(bad.job)
    assert isinstance(bad.next(), GenerationFailed)
    loop.submit(good.job)
    assert good.ids() == [2]


def test_a_model_that_fails_its_self_check_kills_the_loop_and_everybody_hears_of_it(make: Make) -> None:
    runner = ScriptedRunner({"bad": [RuntimeError("device lost")], "good": [2] * 1000}, sick=True)
    loop = make(runner)
    good, bad = Listener("good", max_new_tokens=5000), Listener("bad")
    loop.submit(good.job)
    good.next()
    loop.submit(bad.job)
    assert isinstance(bad.all()[-1], EngineDead)
    assert isinstance(good.all()[-1], EngineDead)
    assert loop.death == "the step loop broke: RuntimeError"
    with pytest.raises(EngineDead, match="step loop broke"):
        loop.submit(Listener("good").job)


def test_stopping_ends_open_answers_and_refuses_new_ones(make: Make) -> None:
    loop = make(ScriptedRunner({"a": [1] * 100_000}))
    listener = Listener("a", max_new_tokens=200_000)
    loop.submit(listener.job)
    listener.next()
    loop.stop()
    loop.stop()
    assert isinstance(listener.all()[-1], EngineDead)
    with pytest.raises(EngineDead, match="closed"):
        loop.submit(Listener("a").job)


def test_abandoning_tells_open_answers_at_once_although_the_model_never_comes_back(make: Make) -> None:
    runner = ScriptedRunner({"a": [1, 1, 1], "b": [2, END]})
    held = HeldStep(runner, "a")
    loop = make(runner)
    a, b = Listener("a"), Listener("b")
    loop.submit(a.job)
    held.wait()
    loop.submit(b.job)
    loop.abandon("a rank is gone")
    for listener in (a, b):
        assert str(listener.next()) == "a rank is gone"
    with pytest.raises(EngineDead, match="a rank is gone"):
        loop.submit(Listener("a").job)
    loop.stop(patience_s=0.01)
    held.go_on.set()
    loop.stop()
    assert a.items.empty(), "the step that came back late was told"
    assert loop.death == "a rank is gone"


def test_a_model_that_cannot_be_loaded_says_why_to_whoever_starts_it() -> None:
    def fail() -> ScriptedRunner:
        raise ValueError("no weights")

    loop = StepLoop(fail)
    with pytest.raises(ValueError, match="no weights"):
        loop.start()
    loop.stop()
    assert loop.death is not None


def test_a_listener_that_is_gone_ends_its_answer(make: Make) -> None:
    runner = ScriptedRunner({"a": [1, 1, 1, 1], "b": [2, END]})
    loop = make(runner)
    gone, b = Listener("a"), Listener("b")

    def closed(item: TokenStep | Exception) -> None:
        raise RuntimeError("Event loop is closed")

    gone.job.emit = closed
    loop.submit(gone.job)
    loop.submit(b.job)
    assert b.ids() == [2]
    assert runner.trace.count("a") == 1
