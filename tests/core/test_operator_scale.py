"""The benchmark `operator_scale`: what it is asked for, and helpers of it that die."""

import threading

import pytest
from benchmarks.scale.asked import ARMS, SIZES, STEADY, Asked, Wrong, asked
from benchmarks.scale.helper import Helper, HelperDied

KNOWN = ("ours", "kuberay")


def test_without_a_word_all_numbers_and_all_operators_are_measured() -> None:
    assert asked({}, KNOWN) == Asked((10, 100, 1000), KNOWN, 60.0)


def test_what_is_asked_for_is_measured() -> None:
    environ = {SIZES: "5, 50", ARMS: "kuberay", STEADY: "300"}

    assert asked(environ, KNOWN) == Asked((5, 50), ("kuberay",), 300.0)


@pytest.mark.parametrize(
    ("environ", "remedy"),
    [
        ({SIZES: "100,10"}, "AUTOGLM_SCALE=100,10: each number has to be above the one before: write 10,100"),
        ({SIZES: "10,10"}, "AUTOGLM_SCALE=10,10: each number has to be above the one before: write 10$"),
        ({SIZES: "ten"}, "AUTOGLM_SCALE=ten: write numbers of objects above 0"),
        ({SIZES: "0,10"}, "AUTOGLM_SCALE=0,10: write numbers of objects above 0"),
        ({SIZES: ""}, "AUTOGLM_SCALE=: write numbers of objects above 0"),
        ({ARMS: "our"}, "AUTOGLM_SCALE_ARMS=our: no operator is called our: write one or more of ours, kuberay"),
        ({ARMS: ","}, "AUTOGLM_SCALE_ARMS=,: no operator is named: write one or more of ours, kuberay"),
        ({ARMS: "ours,ours"}, "AUTOGLM_SCALE_ARMS=ours,ours: an operator is named twice: write ours$"),
        ({STEADY: "-1"}, "AUTOGLM_SCALE_STEADY=-1: write seconds above 0"),
        ({STEADY: "soon"}, "AUTOGLM_SCALE_STEADY=soon: write seconds above 0"),
        ({STEADY: "nan"}, "AUTOGLM_SCALE_STEADY=nan: write seconds above 0"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused_by_name_with_what_to_write(
    environ: dict[str, str], remedy: str
) -> None:
    with pytest.raises(Wrong, match=f"^{remedy}"):
        asked(environ, KNOWN)


def test_whoever_waits_for_a_helper_hears_of_what_it_died() -> None:
    died = threading.Event()

    def work() -> None:
        try:
            raise OSError("connection reset")
        finally:
            died.set()

    helper = Helper("the watch of pods", work)
    died.wait(60)

    with pytest.raises(HelperDied, match=r"the watch of pods died:\n(.|\n)*OSError: connection reset"):
        _until_it_raises(helper)


def test_a_helper_that_ends_without_an_error_is_told_as_well() -> None:
    with pytest.raises(HelperDied, match="the watch of pods ended, though it should go on"):
        _until_it_raises(Helper("the watch of pods", lambda: None))


def test_a_helper_that_works_is_no_error() -> None:
    stop = threading.Event()

    def work() -> None:
        stop.wait(60)

    Helper("the watch of pods", work).check()
    stop.set()


def _until_it_raises(helper: Helper) -> None:
    """Its thread may end a moment after its work."""
    for thread in threading.enumerate():
        if thread.name == "the watch of pods":
            thread.join(60)
    helper.check()
