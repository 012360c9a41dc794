"""Engines in a process of their own, used as if they were here.

vLLM changes the environment, logging and threads of the process that imports it, and keeps about a gigabyte. So that tests
can treat it as any other engine, it lives in a child (`python -m support.engine_process SOCKET`), and `RemoteEngine` hands
each call over: also a stream that is closed, and a task that is cancelled.
"""

import asyncio
import contextlib
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from typing_extensions import override

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import Delta, Engine, EngineStats, GenerateRequest
from support.processes import Process

HAS_VLLM = importlib.util.find_spec("vllm") is not None
"""Asked without importing it."""
TESTS = Path(__file__).parents[1]
CANCEL = "cancel"
T = TypeVar("T")


class EngineProcess:
    """The child. Its engines end with the block."""

    def __init__(self, name: str, log: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()  # a short path: addresses of sockets are
        self._address = f"{self._folder.name}/s"
        command: list[str | Path] = [sys.executable, "-m", "support.engine_process", self._address]
        self.process = Process(name, command, log=log, env={"PYTHONPATH": str(TESTS)})
        self._numbers = count(1)
        self._open: dict[int, Future[Any]] = {}
        self._connection: Connection[Any, Any] | None = None
        self._sending = threading.Lock()

    def __enter__(self) -> Self:
        with Listener(self._address) as listener:
            self.process.start()
            accepting = ThreadPoolExecutor(1).submit(listener.accept)
            self.process.wait_for(accepting.done, "it is there")
            self._connection = accepting.result()
        threading.Thread(target=self._read, name="engine-process", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self._folder.cleanup()

    def engine(self, config: AppConfig) -> "RemoteEngine":
        """A new engine there, not started."""
        return RemoteEngine(self, next(self._numbers), config)

    def begin(self, operation: str, *arguments: Any) -> tuple[int, Future[Any]]:
        """Hand a call over; its number, and what will come of it."""
        assert self._connection is not None
        number, outcome = next(self._numbers), Future[Any]()
        self._open[number] = outcome
        self._send((number, operation, arguments))
        return number, outcome

    async def call(self, operation: str, *arguments: Any) -> Any:
        """What comes of a call. Cancelling it cancels it there, and ends when it has ended there."""
        number, outcome = self.begin(operation, *arguments)
        waiting = asyncio.wrap_future(outcome)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._send((number, CANCEL, ()))
            await asyncio.wait([waiting])
            raise

    def _send(self, message: tuple[int, str, tuple[Any, ...]]) -> None:
        assert self._connection is not None
        with self._sending:
            self._connection.send(message)

    def _read(self) -> None:
        assert self._connection is not None
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, result, failed = self._connection.recv()
                outcome = self._open.pop(number)
                if failed is None:
                    outcome.set_result(result)
                else:
                    outcome.set_exception(failed.error())
        while self._open:
            self._open.popitem()[1].set_exception(ConnectionError(f"{self.process.name} has ended"))


class RemoteEngine(Engine):
    """An engine of another process, with the methods of one that is here. `start_took`: seconds, of `start_and_wait`."""

    def __init__(self, host: EngineProcess, name: int, config: AppConfig) -> None:
        self.host = host
        self.config = config
        self.start_took = 0.0
        self._name = name
        host.begin("create", name, config)[1].result()

    @override
    async def start(self) -> None:
        await self.host.call("start", self._name)

    def start_and_wait(self) -> Self:
        """`start` for a fixture that has no event loop."""
        begun = time.monotonic()
        self.host.begin("start", self._name)[1].result()
        self.start_took = time.monotonic() - begun
        return self

    @override
    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        stream = await self.host.call("generate", self._name, request)
        try:
            while (delta := await self.host.call("next", stream)) is not None:
                yield delta
        finally:
            await self.host.call("aclose", stream)

    @override
    async def check(self) -> None:
        await self.host.call("check", self._name)

    @override
    async def close(self) -> None:
        await self.host.call("close", self._name)

    @override
    def stats(self) -> EngineStats:
        stats: EngineStats = self.host.begin("stats", self._name)[1].result()
        return stats

    def start_seconds(self) -> Mapping[str, float]:
        """As `TellsStart` has it."""
        seconds: Mapping[str, float] = self.host.begin("start_seconds", self._name)[1].result()
        return seconds

    async def ask(self, question: Callable[[Any], T]) -> T:
        """What a function of a module says of the engine where it is."""
        answer: T = await self.host.call("ask", self._name, question)
        return answer


class _Failed:
    """An error on its way: what pickle needs of it, whatever its constructor takes."""

    def __init__(self, error: BaseException) -> None:
        self._kind, self._arguments, self._facts = type(error), error.args, dict(vars(error))

    def error(self) -> BaseException:
        error = self._kind.__new__(self._kind, *self._arguments)
        error.args = self._arguments
        vars(error).update(self._facts)
        return error


class _Child:
    """The other side: engines and open streams by their numbers."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._engines: dict[int, Any] = {}
        self._streams: dict[int, AsyncIterator[Delta]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._numbers = count(1)

    async def serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                number, operation, arguments = await asyncio.to_thread(self._connection.recv)
                if operation == CANCEL:
                    if number in self._tasks:
                        self._tasks[number].cancel()
                    continue
                self._tasks[number] = asyncio.create_task(self._answer(number, getattr(self, operation)(*arguments)))
        for engine in self._engines.values():
            await engine.close()

    async def _answer(self, number: int, work: Coroutine[Any, Any, Any]) -> None:
        result: Any = None
        failed: _Failed | None = None
        try:
            result = await work
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            failed = _Failed(error)
        del self._tasks[number]
        self._connection.send((number, result, failed))

    async def create(self, name: int, config: AppConfig) -> None:
        self._engines[name] = create_engine(config)

    async def start(self, name: int) -> None:
        await self._engines[name].start()

    async def generate(self, name: int, request: GenerateRequest) -> int:
        stream = next(self._numbers)
        self._streams[stream] = self._engines[name].generate(request)
        return stream

    async def next(self, stream: int) -> Delta | None:
        return await anext(self._streams[stream], None)

    async def aclose(self, stream: int) -> None:
        await self._streams.pop(stream).aclose()  # type: ignore[attr-defined]  # engines give generators

    async def check(self, name: int) -> None:
        await self._engines[name].check()

    async def close(self, name: int) -> None:
        await self._engines[name].close()

    async def stats(self, name: int) -> EngineStats:
        stats: EngineStats = self._engines[name].stats()
        return stats

    async def start_seconds(self, name: int) -> Mapping[str, float]:
        return dict(self._engines[name].start_seconds())

    async def ask(self, name: int, question: Callable[[Any], Any]) -> Any:
        return question(self._engines[name])


if __name__ == "__main__":
    # Pickle looks for these classes under the name by which the other side knows them.
    from support import engine_process

    importlib.import_module("support.vllm_facts")
    asyncio.run(engine_process._Child(Client(sys.argv[1])).serve())
