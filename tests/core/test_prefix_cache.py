"""Names of blocks of a prompt, and the cache that is keyed by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.engines.prefix_cache import ImageSpan, PrefixCache, block_names

PROMPTS = st.lists(st.integers(0, 5), max_size=40)


@given(PROMPTS, PROMPTS, st.integers(1, 8))
def test_two_prompts_share_the_names_of_their_common_whole_blocks_and_no_more(
    one: list[int], other: list[int], block: int
) -> None:
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    first, second = block_names(one, (), "", block), block_names(other, (), "", block)
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    assert (len(first), len(second)) == (len(one) // block, len(other) // block)
    assert shared == common // block
    assert not set(first[shared:]) & set(second[shared:])


def test_another_tenant_shares_nothing() -> None:
    ids = list(range(12))
    assert not set(block_names(ids, (), "a", 4)) & set(block_names(ids, (), "b", 4))


def test_equal_image_tokens_of_different_images_have_different_names_from_the_first_block_they_are_in() -> None:
    ids = [1, 1, 9, 9, 9, 9, 9, 9, 2, 2, 2, 2]
    one = block_names(ids, (ImageSpan(2, 6, "x"),), "", 4)
    same = block_names(ids, (ImageSpan(2, 6, "x"),), "", 4)
    other = block_names(ids, (ImageSpan(2, 6, "y"),), "", 4)
    assert one == same
    assert not set(one) & set(other)


def test_text_before_an_image_is_shared_whatever_image_follows() -> None:
    ids = [1, 2, 3, 4, 9, 9, 9, 9]
    one = block_names(ids, (ImageSpan(4, 4, "x"),), "", 4)
    other = block_names(ids, (ImageSpan(4, 4, "y"),), "", 4)
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_shifted_image_is_another_block() -> None:
    ids = [9] * 8
    assert block_names(ids, (ImageSpan(0, 8, "x"),), "", 4) != block_names(ids, (ImageSpan(0, 4, "x"),), "", 4)


def test_a_block_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="a block needs a token"):
        block_names([1], (), "", 0)


def test_a_run_ends_at_the_first_block_that_is_not_there() -> None:
    cache: PrefixCache[str] = PrefixCache(100)
    cache.put(["a"], "A", 1)
    cache.put(["a", "b", "c"], "C", 1)
    assert cache.run(["a", "b", "c"]) == ["A"]
    assert (cache.figures.hits, cache.figures.misses) == (1, 1)


def test_the_end_of_a_prompt_goes_before_its_beginning() -> None:
    cache: PrefixCache[str] = PrefixCache(3)
    names = ["a", "b", "c"]
    for number, name in enumerate(names):
        cache.put(names[: number + 1], name.upper(), 1)
    cache.put(["x"], "X", 1)
    assert cache.run(names) == ["A", "B"]
    assert cache.figures.evictions == 1


def test_a_prompt_that_was_used_lately_outlives_one_that_was_not() -> None:
    cache: PrefixCache[str] = PrefixCache(4)
    for prompt in (["a", "b"], ["c", "d"]):
        cache.put(prompt[:1], "", 1)
        cache.put(prompt, "", 1)
    cache.run(["a", "b"])
    cache.put(["x"], "", 1)
    cache.put(["y"], "", 1)
    assert len(cache.run(["a", "b"])) == 2
    assert cache.run(["c", "d"]) == []


@given(st.lists(st.tuples(PROMPTS, st.integers(0, 30)), max_size=30), st.integers(0, 100))
def test_the_cache_never_holds_more_bytes_than_it_may(puts: list[tuple[list[int], int]], capacity: int) -> None:
    cache: PrefixCache[int] = PrefixCache(capacity)
    for ids, size in puts:
        names = block_names(ids, (), "", 4)
        for number in range(len(names)):
            if not cache.holds(names[number]):
                cache.put(names[: number + 1], size, size)
        assert cache.figures.held_bytes <= capacity
