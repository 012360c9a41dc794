"""Rank 0's part of the model: whoever calls it makes all ranks compute, and need not know.

The model is entered at three places (the whole, its vision tower, its embedding). Each tells the other ranks first, hands
them what they need, and computes. What goes wrong inside such a call ends the gang: the ranks may have stopped at
different places, and a sum of what different calls computed would be a wrong answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist
from torch import nn
from transformers import DynamicCache
from typing_extensions import override

from autoglm_serving.engines.gang.leader import Gang
from autoglm_serving.engines.gang.messages import Drop, Embed, Forward, Ints, Join, Keep, Reuse, Step, Tower
from autoglm_serving.engines.gang.part import Part
from autoglm_serving.engines.gang.seat import Seat
from autoglm_serving.engines.transformers_prefixes import Prefixes

_KNOWN = frozenset({"input_ids", "inputs_embeds", "position_ids", "past_key_values", "use_cache", "logits_to_keep"})


class Baton:
    """Tells the other ranks what rank 0 does. For one thread."""

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._inside = False
        self._numbers: WeakKeyDictionary[DynamicCache, int] = WeakKeyDictionary()
        self._next = count()
        self._over: deque[int] = deque()
        """Caches that nobody holds any more, not told yet. Filled by whatever thread let the last one go."""

    def tell(self, step: Step) -> None:
        """Tell it now, after what is over."""
        while self._over:
            self._gang.send(Drop(self._over.popleft()))
        self._gang.send(step)

    def number(self, cache: DynamicCache) -> int:
        """The number of a cache; a new one for a cache that was never seen."""
        if cache not in self._numbers:
            self._numbers[cache] = next(self._next)
            finalize(cache, self._over.append, self._numbers[cache])
        return self._numbers[cache]

    def lead(self, module: nn.Module, announce: Callable[..., None]) -> None:
        """Announce every call of a module that does not happen inside of another such call."""
        inner = module.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return inner(*arguments, **named)
            self._inside = True
            try:
                announce(*arguments, **named)
                return inner(*arguments, **named)
            except Exception as error:
                self._gang.fail(f"rank 0 failed: {type(error).__name__}: {error}")
                raise
            finally:
                self._inside = False

        module.forward = forward


class LedPrefixes(Prefixes):
    """Rank 0's prefixes: every rank keeps and reuses the same blocks, each with its part of the heads."""

    def __init__(self, own: Prefixes, baton: Baton) -> None:
        self._own = own
        self._baton = baton

    @property
    @override
    def figures(self) -> Any:
        return self._own.figures

    @override
    def reuse(self, cache: DynamicCache, names: Sequence[str]) -> int:
        taken = self._own.reuse(cache, names)
        self._baton.tell(Reuse(self._baton.number(cache), tuple(names), taken))
        return taken

    @override
    def keep(self, cache: DynamicCache, names: Sequence[str], first: int) -> None:
        self._own.keep(cache, names, first)
        self._baton.tell(Keep(self._baton.number(cache), tuple(names), first))


def lead(part: Part, seat: Seat, gang: Gang) -> Part:
    """Bring all ranks together, and make every call of rank 0's part one of all."""
    baton = Baton(gang)
    baton.tell(Join())
    seat.join(part.device)
    model = part.model
    baton.lead(model, lambda **named: _forward(baton, named))
    baton.lead(model.model.visual, lambda pixels, grid_thw, **_: _tower(baton, pixels, grid_thw))
    baton.lead(model.get_input_embeddings(), lambda ids: baton.tell(Embed(_ints(ids))))
    return Part(model, part.device, part.key_value_heads, LedPrefixes(part.prefixes, baton))


def _tower(baton: Baton, pixels: torch.Tensor, grids: torch.Tensor) -> None:
    baton.tell(Tower(_ints(grids), tuple(pixels.shape)))
    dist.broadcast(pixels, src=0)


def _forward(baton: Baton, named: dict[str, Any]) -> None:
    if unknown := named.keys() - _KNOWN:
        raise TypeError(f"the ranks of a gang do not hand {sorted(unknown)} to each other")
    ids, vectors = named.get("input_ids"), named.get("inputs_embeds")
    positions, cache = named.get("position_ids"), named.get("past_key_values")
    baton.tell(
        Forward(
            ids=None if ids is None else _ints(ids),
            shape=None if vectors is None else tuple(vectors.shape),
            positions=None if positions is None else _ints(positions),
            cache=None if cache is None else baton.number(cache),
            logits_to_keep=named.get("logits_to_keep", 0),
        )
    )
    if vectors is not None:
        dist.broadcast(vectors, src=0)


def _ints(values: torch.Tensor) -> Ints:
    rows: Ints = values.tolist()
    return rows
