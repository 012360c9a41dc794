"""What lives long is kept apart from the cycle collector; what comes later and is not needed any more is not."""

import asyncio
import gc
import weakref

from autoglm_operator.__main__ import _keep_the_old_apart


class Ring:
    """Something that only the cycle collector frees."""

    def __init__(self) -> None:
        self.itself = self


async def test_the_cycle_collector_is_spared_what_has_lived_and_still_frees_what_comes_later() -> None:
    before = gc.get_freeze_count()
    task = asyncio.create_task(_keep_the_old_apart())
    try:
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > before + 1000, "all that is loaded is kept apart"
        later = weakref.ref(Ring())
        gc.collect()
        assert later() is None
    finally:
        task.cancel()
        gc.unfreeze()
