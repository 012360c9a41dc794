"""What the poll loop of a site remembers between two looks: removals that were asked for, and since when it is silent."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from autoglm_operator.backend import Backend, ClusterView, SiteFailure
from autoglm_operator.controller.parts import Parts
from autoglm_operator.controller.sites import Sites
from autoglm_operator.settings import Pace
from autoglm_operator.state import ApplicationChange, DeleteApplication, SiteView
from support import fleet, virtual_time

OF = fleet.deployment()
FOUND = fleet.application(OF)
REMOVAL = DeleteApplication("a", FOUND.name, OF.metadata.uid)


class Slow:
    """A site whose answers take a while: what is looked at is as it was when the look began."""

    def __init__(self) -> None:
        self.there = True
        self.silent = False
        self.look_s = 0.5
        self.write_s = 0.0

    async def observe(self) -> ClusterView:
        if self.silent:
            raise SiteFailure("Unreachable", "no route to host")
        found = (FOUND,) if self.there else ()
        await asyncio.sleep(self.look_s)
        return ClusterView(found, "2.60.0", None)

    async def apply(self, changes: Sequence[ApplicationChange]) -> bool:
        await asyncio.sleep(self.write_s)
        if self.silent:
            raise SiteFailure("Unreachable", "no route to host")
        self.there = not any(isinstance(change, DeleteApplication) for change in changes)
        return True

    async def close(self) -> None:
        """Nothing is open."""


class _Always:
    """Makes the one back end."""

    def __init__(self, backend: Slow) -> None:
        self._backend = backend

    def make(self, _: Any) -> Backend:
        return self._backend


async def watched(backend: Slow) -> Sites:
    """A site that was looked at once."""
    loop = asyncio.get_running_loop()
    parts = Parts(
        store=cast(Any, None),
        fence=cast(Any, None),
        gateways=(),
        gateway_token=str,
        now=lambda: datetime.fromtimestamp(loop.time(), UTC),
        clock=loop.time,
        pace=Pace(),
    )
    sites = Sites(parts, lambda *_: None)
    sites._backends = cast(Any, _Always(backend))
    await sites.watch(fleet.site("a"))
    await sites.first_look()
    return sites


def seen(sites: Sites) -> SiteView:
    view = sites.view("a")
    assert view is not None
    return view


def test_what_was_asked_to_go_is_remembered_until_somebody_looked_since() -> None:
    async def main() -> None:
        backend = Slow()
        sites = await watched(backend)
        assert seen(sites).going == frozenset()
        await sites.apply("a", [REMOVAL])
        assert seen(sites).going == {FOUND.name}
        await asyncio.sleep(30)
        assert (seen(sites).going, seen(sites).applications) == (frozenset(), ())
        await sites.close()

    virtual_time.run(main())


def test_a_look_that_began_before_the_removal_ended_tells_nothing_of_it() -> None:
    async def main() -> None:
        backend = Slow()
        sites = await watched(backend)
        backend.look_s = 5.0
        await asyncio.sleep(11)  # a look is under way
        await sites.apply("a", [REMOVAL])
        await asyncio.sleep(5)  # and has ended
        assert seen(sites).applications == (FOUND,), "as it was when the look began"
        assert seen(sites).going == {FOUND.name}
        await sites.close()

    virtual_time.run(main())


def test_a_look_while_the_removal_is_under_way_tells_nothing_of_it() -> None:
    async def main() -> None:
        backend = Slow()
        sites = await watched(backend)
        backend.write_s = 15.0
        removal = asyncio.create_task(sites.apply("a", [REMOVAL]))
        await asyncio.sleep(14)
        assert seen(sites).applications == (FOUND,)
        assert seen(sites).going == {FOUND.name}
        await removal
        await sites.close()

    virtual_time.run(main())


def test_a_site_that_falls_silent_as_it_is_asked_keeps_what_was_asked_to_go_and_since_when_it_is_silent() -> None:
    async def main() -> None:
        backend = Slow()
        sites = await watched(backend)
        backend.silent = True
        begun = asyncio.get_running_loop().time()
        with pytest.raises(SiteFailure):
            await sites.apply("a", [REMOVAL])
        await asyncio.sleep(600)
        view = seen(sites)
        assert (set(view.going), view.applications) == ({FOUND.name}, (FOUND,))
        assert view.silent_since is not None
        assert 0 <= view.silent_since.timestamp() - begun < 5, "the first attempt in vain, not the last"
        backend.silent = False
        await asyncio.sleep(120)
        assert (seen(sites).silent_since, seen(sites).going) == (None, frozenset())
        await sites.close()

    virtual_time.run(main())
