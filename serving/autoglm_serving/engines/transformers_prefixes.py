"""Keys and values of the beginnings of prompts, kept for later prompts that begin alike."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from autoglm_serving.engines.prefix_cache import PrefixCache
from autoglm_serving.vision.cache import CacheFigures


class Prefixes:
    """Blocks of `block` tokens by name (`prefix_cache.block_names`), at most `capacity` bytes together. For one thread."""

    def __init__(self, capacity: int, block: int) -> None:
        self._block = block
        self._cache: PrefixCache[torch.Tensor] = PrefixCache(capacity)

    @property
    def figures(self) -> CacheFigures:
        """What the cache holds and did, counted in blocks; any thread may ask."""
        return self._cache.figures

    def reuse(self, cache: DynamicCache, names: Sequence[str]) -> int:
        """Put the blocks that are known, from the first name on, behind what `cache` holds; how many they are."""
        known = self._cache.run(names)
        if known:
            for number, (keys, values) in enumerate(torch.cat(known, dim=-2)):
                cache.update(keys[None], values[None], number)
        return len(known)

    def keep(self, cache: DynamicCache, names: Sequence[str], first: int) -> None:
        """Keep the blocks from number `first` on. `names` are those of the prompt up to the last block to keep."""
        for number in range(first, len(names)):
            if self._cache.holds(names[number]):
                continue
            part = slice(number * self._block, (number + 1) * self._block)
            layers = [torch.stack((layer.keys[0, :, part], layer.values[0, :, part])) for layer in cache.layers]
            value = torch.stack(layers)
            self._cache.put(names[: number + 1], value, value.nbytes)
