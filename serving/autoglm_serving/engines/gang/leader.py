"""Rank 0's side of a gang: it starts the other ranks, tells them what to do, and notices when one is lost.

A gang has no life without all its ranks. When one ends, says nothing for too long or reports an error, the gang is dead:
its listener is told at once, from whatever thread saw it, and everything that rank 0 started ends.
"""

import contextlib
import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from autoglm_serving.engines.gang.messages import (
    Failed,
    FromRank,
    Hello,
    Loaded,
    Ping,
    Pong,
    Refusal,
    Task,
    ToRank,
)
from autoglm_serving.engines.gang.seat import Devices, Seat
from autoglm_serving.engines.interface import EngineDead
from autoglm_serving.engines.options import TransformersOptions

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Every rank is asked so often whether it is there."""
_LOOK_S = 0.2
_CONNECT_S = 30.0
"""A rank's process that has connected says who it is within this time."""


class Rank(Protocol):
    """A started rank, as whoever started it knows it."""

    def ended(self) -> str | None:
        """How the rank's process ended, in words; None while it runs."""

    def stop(self) -> None:
        """End it at once. Idempotent."""


class Launcher(Protocol):
    """Starts the other ranks of gangs: as child processes, or as Ray actors."""

    @property
    def devices(self) -> Devices:
        """Which devices a rank sees."""

    def start(self, rank: int, address: Path) -> Rank:
        """Start a process that runs `member.run(address, rank)`."""


@dataclass
class _Member:
    rank: int
    process: Rank
    connection: Connection | None = None
    line: socket.socket | None = None
    heard: float = 0.0
    weight_bytes: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: ToRank) -> None:
        assert self.connection is not None
        with self.lock:
            self.connection.send(message)

    def end(self) -> None:
        """End the process; whoever reads or writes its connection sees it closed."""
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)
        self.process.stop()


class Gang:
    """The other ranks of one gang. `start` once; after a death, or `close`, it is over."""

    def __init__(self, ranks: int, patience_s: float, launcher: Launcher, on_death: Callable[[str], None]) -> None:
        self._ranks = ranks
        self._patience_s = patience_s
        self._launcher = launcher
        self._on_death = on_death
        self._folder = Path(tempfile.mkdtemp(prefix="autoglm-gang-"))
        self._members: list[_Member] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._refusal: Refusal | None = None
        self.death: str | None = None

    @property
    def seat(self) -> Seat:
        """Rank 0's own place."""
        return self._seat(0)

    @property
    def weight_bytes(self) -> Sequence[int]:
        """Bytes of weights of each other rank, once all are loaded."""
        return [member.weight_bytes or 0 for member in self._members]

    def start(self, model: Path, options: TransformersOptions, deadline_s: float) -> None:
        """Start the ranks and give each its task; they load from then on. Raises EngineDead when one does not come."""
        end = time.monotonic() + deadline_s
        address = self._folder / "control"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(self._ranks)
            listener.settimeout(_LOOK_S)
            for rank in range(1, self._ranks):
                self._members.append(_Member(rank, self._launcher.start(rank, address)))
            while any(member.connection is None for member in self._members):
                self._check_start(end)
                with contextlib.suppress(TimeoutError):
                    self._greet(listener.accept()[0])
        for member in self._members:
            member.send(Task(self._seat(member.rank), model, options))
            threading.Thread(
                target=self._listen, args=(member,), name=f"autoglm-rank-{member.rank}", daemon=True
            ).start()

    def wait_loaded(self, deadline_s: float) -> None:
        """Wait until every rank has its part of the model; raises a rank's refusal of its configuration, or EngineDead."""
        with self._changed:
            there = self._changed.wait_for(
                lambda: self.death is not None or all(member.weight_bytes is not None for member in self._members),
                deadline_s,
            )
        if self._refusal is not None:
            raise self._refusal
        if self.death is not None:
            raise EngineDead(self.death)
        if not there:
            raise EngineDead("the gang was not loaded in time")
        now = time.monotonic()
        for member in self._members:
            member.heard = now
        threading.Thread(target=self._beat, name="autoglm-gang-beat", daemon=True).start()

    def send(self, message: ToRank) -> None:
        """Tell every rank; raises EngineDead when one cannot be told."""
        if self.death is not None:
            raise EngineDead(self.death)
        for member in self._members:
            try:
                member.send(message)
            except OSError as error:
                self.fail(f"rank {member.rank} is gone")
                raise EngineDead(f"rank {member.rank} is gone") from error

    def fail(self, reason: str) -> None:
        """The gang is dead. The first reason counts."""
        with self._changed:
            if self.death is not None or self._closing.is_set():
                return
            self.death = reason
            self._changed.notify_all()
        log.error("the gang of %d ranks is dead: %s", self._ranks, reason)
        self._on_death(reason)
        self._end()

    def close(self) -> None:
        """End all ranks. Idempotent."""
        self._closing.set()
        self._end()

    def _seat(self, rank: int) -> Seat:
        return Seat(rank, self._ranks, self._folder, self._launcher.devices, self._patience_s)

    def _check_start(self, end: float) -> None:
        for member in self._members:
            if how := member.process.ended():
                raise EngineDead(f"rank {member.rank} ended before it was there: {how}")
        if time.monotonic() > end:
            raise EngineDead("the ranks of the gang did not come in time")

    def _greet(self, accepted: socket.socket) -> None:
        connection = Connection(accepted.dup().detach())
        try:
            hello = connection.recv() if connection.poll(_CONNECT_S) else None
        except (EOFError, OSError):
            hello = None
        if not isinstance(hello, Hello):
            connection.close()
            accepted.close()
            return
        member = self._members[hello.rank - 1]
        member.connection, member.line = connection, accepted

    def _listen(self, member: _Member) -> None:
        assert member.connection is not None
        try:
            while True:
                message: FromRank = member.connection.recv()
                member.heard = time.monotonic()
                self._take(member, message)
        except (EOFError, OSError):
            self.fail(f"rank {member.rank} is gone")
        finally:
            member.connection.close()

    def _take(self, member: _Member, message: FromRank) -> None:
        match message:
            case Loaded():
                with self._changed:
                    member.weight_bytes = message.weight_bytes
                    self._changed.notify_all()
            case Failed():
                self._refusal = self._refusal or message.refusal
                self.fail(f"rank {member.rank} failed: {message.what}")
            case Pong() | Hello():
                pass

    def _beat(self) -> None:
        """Ask all ranks again and again; one that is stopped, or on a machine that hangs, does not answer."""
        while not self._closing.wait(BEAT_S) and self.death is None:
            for member in self._members:
                silent = time.monotonic() - member.heard
                if silent > self._patience_s:
                    self.fail(f"rank {member.rank} has said nothing for {silent:.0f} s")
                    return
            for member in self._members:
                assert member.connection is not None
                if member.lock.acquire(timeout=BEAT_S):
                    try:
                        member.connection.send(Ping())
                    except OSError:
                        pass  # its reader says so
                    finally:
                        member.lock.release()

    def _end(self) -> None:
        for member in self._members:
            member.end()
        shutil.rmtree(self._folder, ignore_errors=True)
