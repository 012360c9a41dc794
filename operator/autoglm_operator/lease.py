"""Leader election by a coordination.k8s.io Lease, with the rules of client-go's leaderelection.

- The holder renews every `retry` seconds. When no renewal worked for `renew_deadline` seconds it stops leading.
- Another process takes the lease when it saw no change of it for the lease duration, by its own monotonic clock.
  Clocks of two machines are never compared.
- Each change of holder raises `leaseTransitions`, which is the epoch of the new leader.

`epoch()` is the fence: it is None as soon as another process could have taken over, minus a margin for one write. It
looks at the clock, not at a flag, so a process that was frozen and wakes up holds nothing. The clock counts time
in suspend where the system has such a clock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from autoglm_operator.store import Conflict, StoreError

LeaseObject = dict[str, Any]


def boottime() -> float:
    """Monotonic seconds that go on while the machine is suspended, where the system can tell."""
    clock_id = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock_id is None else time.clock_gettime(clock_id)


class LeaseApi(Protocol):
    """Reads and writes one Lease. Writes raise `Conflict` when it changed since it was read."""

    async def read(self) -> LeaseObject | None:
        """The Lease, or None when there is none."""

    async def create(self, body: LeaseObject) -> LeaseObject:
        """Creates it."""

    async def replace(self, body: LeaseObject) -> LeaseObject:
        """Replaces it; `metadata.resourceVersion` of the body guards against a lost update."""


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds. client-go's defaults, and `margin`: how much earlier than a rival could lead the fence closes."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0
    margin: float = 3.0

    @classmethod
    def of_duration(cls, duration_s: float) -> "LeaseTimes":
        """The usual proportions for another duration."""
        share = duration_s / 15.0
        return cls(duration_s, 10.0 * share, 2.0 * share, 3.0 * share)


@dataclass(frozen=True)
class LeaseName:
    """Which Lease, and who we are. `identity` must be new for every process."""

    namespace: str
    name: str
    identity: str


@dataclass
class Elector:
    """Takes part in one election until it is cancelled. The `Fence` of an operator in a cluster."""

    api: LeaseApi
    me: LeaseName
    times: LeaseTimes = field(default_factory=LeaseTimes)
    clock: Callable[[], float] = boottime
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    warn: Callable[[str], None] = lambda _: None
    """Hears why the Lease cannot be taken or renewed, once for each reason: one that may not waits for ever."""

    _epoch: int | None = field(default=None, init=False)
    _renewed_at: float = field(default=0.0, init=False)
    _seen: dict[str, Any] = field(default_factory=dict, init=False)
    _seen_at: float = field(default=0.0, init=False)
    _told: str = field(default="", init=False)

    def epoch(self) -> int | None:
        """The epoch of our leadership, or None when it is not surely ours for another `margin` seconds."""
        if self._epoch is None:
            return None
        left = self._renewed_at + self.times.duration - self.clock()
        return self._epoch if left > self.times.margin else None

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Runs `lead` as a task while the lease is ours and cancels it when the lease is lost; over and over.

        Ends with the error of `lead` if that ends by itself. On cancellation the leader stops first, then the
        lease is given back, so that another process needs not wait for its end.
        """
        while True:
            await self._acquire()
            leading = asyncio.ensure_future(lead())
            try:
                await self._renew_while(leading)
            finally:
                await _cancel(leading)
                await self._release()

    async def _acquire(self) -> None:
        while True:
            if await self._try():
                return
            await asyncio.sleep(self.times.retry)

    async def _renew_while(self, leading: "asyncio.Future[None]") -> None:
        """Returns when the lease was lost; raises what the leader raised."""
        while True:
            await asyncio.wait({leading}, timeout=self.times.retry)
            if leading.done():
                leading.result()
                raise RuntimeError("the leader's work ended without being asked to")
            if not await self._try() and self._lost():
                self._epoch = None
                return

    def _lost(self) -> bool:
        if self._epoch is None:
            return True
        return self.clock() - self._renewed_at >= self.times.renew_deadline

    async def _try(self) -> bool:
        """One attempt to take or keep the lease. Bounded in time by the renew deadline."""
        started = self.clock()
        try:
            async with asyncio.timeout(self.times.renew_deadline / 2):
                epoch = await self._attempt(started)
        except (StoreError, TimeoutError) as error:
            self._tell(error)
            return False
        self._told = ""
        if epoch is None:
            self._epoch = None
            return False
        self._epoch, self._renewed_at = epoch, started
        return True

    def _tell(self, error: Exception) -> None:
        text = str(error) or "the API server did not answer in time"
        if not isinstance(error, Conflict) and text != self._told:
            self._told = text
            self.warn(text)

    async def _attempt(self, started: float) -> int | None:
        """The epoch if the lease is ours after this attempt, None if another holds it."""
        lease = await self.api.read()
        if lease is None:
            written = await self.api.create(self._body(None, transitions=0))
            return self._note(written)
        spec = lease.get("spec") or {}
        self._observe(spec, started)
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self.me.identity) and not self._expired(spec, started):
            return None
        transitions = int(spec.get("leaseTransitions") or 0)
        if holder != self.me.identity:
            transitions += 1
        try:
            written = await self.api.replace(self._body(lease, transitions))
        except Conflict:
            if holder == self.me.identity:
                raise  # somebody wrote into our lease: the next attempt reads who holds it now
            return None
        return self._note(written)

    def _observe(self, spec: dict[str, Any], now: float) -> None:
        if spec != self._seen:
            self._seen, self._seen_at = spec, now

    def _expired(self, spec: dict[str, Any], now: float) -> bool:
        duration = float(spec.get("leaseDurationSeconds") or self.times.duration)
        return now - self._seen_at >= duration

    def _note(self, written: LeaseObject) -> int:
        spec = written.get("spec") or {}
        self._observe(spec, self.clock())
        return int(spec.get("leaseTransitions") or 0)

    def _body(self, lease: LeaseObject | None, transitions: int) -> LeaseObject:
        now = self.wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (lease or {}).get("spec") or {}
        ours = old.get("holderIdentity") == self.me.identity
        metadata = dict((lease or {}).get("metadata") or {"name": self.me.name, "namespace": self.me.namespace})
        metadata.pop("managedFields", None)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.me.identity,
                "leaseDurationSeconds": int(self.times.duration),
                "acquireTime": old.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _release(self) -> None:
        """Gives the lease back if it is ours, so that a rival takes it at its next try."""
        if self.epoch() is None:
            self._epoch = None
            return
        self._epoch = None
        try:
            async with asyncio.timeout(self.times.retry):
                lease = await self.api.read()
                if lease is None or (lease.get("spec") or {}).get("holderIdentity") != self.me.identity:
                    return
                body = self._body(lease, int(lease["spec"].get("leaseTransitions") or 0))
                body["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                await self.api.replace(body)
        except (StoreError, TimeoutError):
            return


async def _cancel(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
