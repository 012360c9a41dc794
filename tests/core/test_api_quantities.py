"""Durations, bandwidths, CPU cores as text."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_operator.api import InvalidResource, parse_deployment
from autoglm_operator.api.quantities import bits_per_second, cpus, option_value, seconds
from support.manifests import deployment


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (seconds, "500ms", 0.5),
        (seconds, "2s", 2),
        (seconds, "5m", 300),
        (seconds, "1.5h", 5400),
        (bits_per_second, "800kbit", 800_000),
        (bits_per_second, "2.5Mbit", 2_500_000),
        (bits_per_second, "1Gbit", 10**9),
        (cpus, 2, 2),
        (cpus, "1.5", 1.5),
        (cpus, "500m", 0.5),
    ],
)
def test_a_quantity_is_read_into_its_plain_unit(read: Callable[[Any], float], text: Any, value: float) -> None:
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize("read", [seconds, bits_per_second, cpus])
@pytest.mark.parametrize("text", ["", "s", "1d", "-1s", "1 s", "1e3", "1s\n", "٣s", "1.s", "1MB", "nan"])
def test_what_is_no_quantity_is_refused_with_an_example(read: Callable[[Any], float], text: str) -> None:
    with pytest.raises(ValueError, match="such as") as refused:
        read(text)
    assert repr(text) in str(refused.value)


@given(st.integers(-5, 20_000) | st.from_regex(r"[0-9.]{1,8}m?", fullmatch=True))
def test_every_cpu_quantity_that_the_api_takes_can_be_read(quantity: int | str) -> None:
    try:
        read = parse_deployment(deployment(worker={"resources": {"cpu": quantity}}))
    except InvalidResource:
        return
    assert cpus(read.spec.worker.resources.cpu) > 0


@given(st.integers(0, 999_999), st.sampled_from(["ms", "s", "m", "h"]))
def test_longer_units_are_longer(number: int, unit: str) -> None:
    order = ["ms", "s", "m", "h"]
    values = [seconds(f"{number}{longer}") for longer in order[order.index(unit) :]]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("stored", "value"),
    [
        (8, 8),
        ("true", True),
        ("false", False),
        ("0.9", 0.9),
        ("-0.5", -0.5),
        ("auto", "auto"),
        ("8", "8"),
        ("True", "True"),
    ],
)
def test_an_engine_option_gets_the_type_that_its_text_says(stored: int | str, value: object) -> None:
    read = option_value(stored)
    assert (read, type(read)) == (value, type(value))
