"""What lives long is kept apart from the cycle collector; what comes later and is not needed any more is not."""

import asyncio
import gc
import weakref

import pytest

from autoglm_operator import __main__ as main


class Ring:
    """Something that only the cycle collector frees."""

    def __init__(self) -> None:
        self.itself = self


async def test_the_cycle_collector_is_spared_what_has_lived_and_still_frees_what_comes_later() -> None:
    before = gc.get_freeze_count()
    task = asyncio.create_task(main._keep_the_old_apart())
    try:
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > before + 1000, "all that is loaded is kept apart"
        later = weakref.ref(Ring())
        gc.collect()
        assert later() is None
    finally:
        task.cancel()
        gc.unfreeze()


async def test_a_ring_that_was_kept_apart_is_freed_by_the_next_look_through_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "LOOK_THROUGH_EVERY", 3)
    monkeypatch.setattr(main, "KEEP_APART_S", 0.0)
    ring = Ring()
    gone = weakref.ref(ring)
    gc.freeze()
    del ring
    gc.collect()
    assert gone() is not None, "kept apart, so not looked at"
    task = asyncio.create_task(main._keep_the_old_apart())
    try:
        async with asyncio.timeout(60):
            while gone() is not None:
                await asyncio.sleep(0)
    finally:
        task.cancel()
        gc.unfreeze()
