"""How vLLM's engine core runs the model: in its own process or in one for each rank, which end when their parent ends.

vLLM names executors by import path, so this module is imported in the engine core alone.
"""

import multiprocessing
import os
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

from typing_extensions import override
from vllm.platforms import current_platform
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from autoglm_serving.engines.gang.seat import meet_on_this_machine
from autoglm_serving.engines.startup import START_TIMES

EXIT_PARENT_GONE = 75
THREADS = "OMP_NUM_THREADS"


class _TellsStart:
    """An executor that can be asked when its process was up and when its weights were loaded."""

    _times: dict[str, float]

    def _init_executor(self) -> None:
        self._times = {"process": time.monotonic()}
        super()._init_executor()  # type: ignore[misc]  # of vLLM's executor, which follows in the line of classes
        self._times["weights"] = time.monotonic()

    def collective_rpc(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        if method == START_TIMES:
            return [self._times]
        return super().collective_rpc(method, *args, **kwargs)  # type: ignore[misc]


class SupervisedExecutor(_TellsStart, UniProcExecutor):  # type: ignore[misc]  # mypy does not follow vllm
    """The model in the engine core's process instead of a worker process below it: one import of torch less.

    vLLM's CPU platform replaces "uni" by worker processes to bind their threads to cores; we bind no threads. And an
    engine core by itself notices nothing when its parent is killed: it would keep its memory, or its GPU, for ever.
    """

    @override
    def _init_executor(self) -> None:
        _end_with_parent()
        super()._init_executor()


class SupervisedGang(_TellsStart, MultiprocExecutor):  # type: ignore[misc]  # mypy does not follow vllm
    """One process for each rank below the engine core. vLLM itself ends them with it, and it with any of them."""

    @override
    def _init_executor(self) -> None:
        _end_with_parent()
        meet_on_this_machine()
        if current_platform.is_cpu():
            # Each rank would take all threads that the replica has, and wait for them spinning.
            threads = int(os.environ.get(THREADS, os.cpu_count() or 1))
            os.environ[THREADS] = str(max(1, threads // self.parallel_config.tensor_parallel_size))
        super()._init_executor()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="autoglm-parent", daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(EXIT_PARENT_GONE)
