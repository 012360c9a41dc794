"""A rank other than the first: `python -m autoglm_serving.engines.gang.member ADDRESS RANK`, or a Ray actor.

It does what rank 0 tells it, in order, and ends when rank 0 is gone, when it fails itself, or when it finds that it does not
hold what rank 0 holds.
"""

import os
import queue
import shutil
import sys
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoglm_serving.engines.gang.messages import (
    Drop,
    Embed,
    Failed,
    Forward,
    FromRank,
    Hello,
    Join,
    Keep,
    Loaded,
    Ping,
    Pong,
    Reuse,
    Step,
    Task,
    ToRank,
    Tower,
    refusal,
)
from autoglm_serving.model.errors import one_line

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

EXIT_LEADER_GONE = 76
EXIT_FAILED = 77


class OutOfStep(RuntimeError):
    """This rank does not hold what rank 0 does: what they would compute together is no answer."""


def run(address: Path, rank: int) -> None:
    """Live as a rank. Does not return: the process ends with its gang."""
    connection = Client(str(address), family="AF_UNIX")
    connection.send(Hello(rank))
    task = connection.recv()
    assert isinstance(task, Task)
    line = _Line(connection, address.parent)
    try:
        member = Member(task)
        line.send(Loaded(member.weight_bytes))
        while True:
            member.perform(line.next())
    except BaseException as error:  # noqa: BLE001 - whatever it was, the gang is over and shall know why
        line.send(Failed(one_line(error), refusal(error)))
        os._exit(EXIT_FAILED)


class Member:
    """The rank's part of the model, and its part of every answer."""

    def __init__(self, task: Task) -> None:
        import torch

        from autoglm_serving.engines.gang.part import load_part
        from autoglm_serving.engines.quantised import weight_bytes
        from autoglm_serving.model.folder import check_folder

        self._seat = task.seat
        self._part = load_part(check_folder(task.model), task.options, task.seat)
        self._caches: dict[int, DynamicCache] = {}
        self.weight_bytes = weight_bytes(self._part.model)
        torch.set_grad_enabled(False)

    def perform(self, step: Step) -> None:
        """Do what rank 0 does at the same time."""
        model = self._part.model
        match step:
            case Join():
                self._seat.join(self._part.device)
            case Tower():
                model.model.visual(self._received(step.shape), grid_thw=self._tensor(step.grids), return_dict=True)
            case Embed():
                model.get_input_embeddings()(self._tensor(step.ids))
            case Forward():
                self._forward(step)
            case Reuse():
                taken = self._part.prefixes.reuse(self._cache(step.cache), step.names)
                if taken != step.taken:
                    raise OutOfStep(f"this rank knows {taken} blocks of a prompt, rank 0 knows {step.taken}")
            case Keep():
                self._part.prefixes.keep(self._cache(step.cache), step.names, step.first)
            case Drop():
                self._caches.pop(step.cache, None)

    def _forward(self, step: Forward) -> None:
        inputs: dict[str, Any] = {"use_cache": step.cache is not None, "logits_to_keep": step.logits_to_keep}
        if step.cache is not None:
            inputs["past_key_values"] = self._cache(step.cache)
        if step.positions is not None:
            inputs["position_ids"] = self._tensor(step.positions)
        if step.shape is not None:
            inputs["inputs_embeds"] = self._received(step.shape)
        else:
            inputs["input_ids"] = self._tensor(step.ids)
        self._part.model(**inputs)

    def _cache(self, number: int) -> "DynamicCache":
        from transformers import DynamicCache

        if number not in self._caches:
            self._caches[number] = DynamicCache(config=self._part.model.config.get_text_config())
        return self._caches[number]

    def _tensor(self, values: Any) -> "torch.Tensor":
        import torch

        return torch.tensor(values, device=self._part.device)

    def _received(self, shape: tuple[int, ...]) -> "torch.Tensor":
        import torch
        import torch.distributed as dist

        values = torch.empty(shape, dtype=self._part.model.dtype, device=self._part.device)
        dist.broadcast(values, src=0)
        return values


class _Line:
    """The connection to rank 0: steps in order, pings answered by a thread of their own."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        self._lock = threading.Lock()
        self._steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="autoglm-leader", daemon=True).start()

    def next(self) -> Step:
        """The next step; waits for it."""
        return self._steps.get()

    def send(self, message: FromRank) -> None:
        """Tell rank 0; if it is gone, this process ends."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            self._end()

    def _end(self) -> None:
        """Rank 0 is gone, and may have had no time to remove the gang's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(EXIT_LEADER_GONE)

    def _listen(self) -> None:
        try:
            while True:
                message: ToRank = self._connection.recv()
                if isinstance(message, Ping):
                    self.send(Pong())
                elif not isinstance(message, Task):
                    self._steps.put(message)
        except (EOFError, OSError):
            self._end()


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
