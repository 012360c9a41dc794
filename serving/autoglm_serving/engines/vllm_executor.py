"""How vLLM's engine core runs the model: in its own process, which ends when the process that started it ends.

vLLM names executors by import path, so this module is imported in the engine core alone.
"""

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess

from typing_extensions import override
from vllm.v1.executor.uniproc_executor import UniProcExecutor

EXIT_PARENT_GONE = 75


class SupervisedExecutor(UniProcExecutor):  # type: ignore[misc]  # mypy does not follow vllm
    """The model in the engine core's process instead of a worker process below it: one import of torch less.

    vLLM's CPU platform replaces "uni" by worker processes to bind their threads to cores; we bind no threads. And an
    engine core by itself notices nothing when its parent is killed: it would keep its memory, or its GPU, for ever.
    """

    @override
    def _init_executor(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent,), name="autoglm-parent", daemon=True).start()
        super()._init_executor()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(EXIT_PARENT_GONE)
