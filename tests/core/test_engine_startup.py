"""How long each part of an engine's start took."""

from collections.abc import Iterator

from autoglm_serving.engines.startup import Phase, Startup


def clock(*times: float) -> Iterator[float]:
    return iter(times)


def test_each_phase_lasts_from_the_end_of_the_one_before() -> None:
    startup = Startup(clock(10.0, 11.0, 15.5).__next__)
    startup.reached("fetch")
    startup.reached("weights")

    assert startup.seconds == {"fetch": 1.0, "weights": 4.5}
    assert list(startup.seconds) == ["fetch", "weights"]


def test_a_moment_that_another_process_noted_ends_a_phase() -> None:
    startup = Startup(clock(10.0, 20.0).__next__)
    startup.reached("engine_process", at=13.0)
    startup.reached("weights", at=18.0)
    startup.reached("warm_up")

    assert startup.seconds == {"engine_process": 3.0, "weights": 5.0, "warm_up": 2.0}


def test_a_phase_in_two_stretches_is_their_sum() -> None:
    startup = Startup(clock(0.0, 3.0, 4.0, 10.0).__next__)
    stretches: list[Phase] = ["imports", "tokenizer", "imports"]
    for phase in stretches:
        startup.reached(phase)

    assert startup.seconds == {"imports": 9.0, "tokenizer": 1.0}


def test_no_phase_is_negative_and_the_sum_stays_the_whole() -> None:
    startup = Startup(clock(10.0, 12.0, 14.0).__next__)
    startup.reached("imports")
    startup.reached("engine_process", at=11.0)
    startup.reached("weights")

    assert startup.seconds == {"imports": 2.0, "engine_process": 0.0, "weights": 2.0}
