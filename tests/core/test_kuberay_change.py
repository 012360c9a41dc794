"""Whether a Ray cluster may be replaced, and how."""

import pytest

from autoglm_operator.kuberay.change import Budget, Need, plan

GPUS = Need(replicas=4, accelerators=2, kind="gpu")


@pytest.mark.parametrize(
    ("surge", "unavailable", "serving", "way"),
    [
        (4, 0, 4, "Surge"),
        (9, 9, 4, "Surge"),
        (3, 4, 4, "Staged"),
        (0, 4, 1, "Staged"),
        (0, 0, 0, "Staged"),
        (3, 3, 4, "Refused"),
        (0, 1, 4, "Refused"),
        (0, 0, 1, "Refused"),
    ],
)
def test_the_budget_decides(surge: int, unavailable: int, serving: int, way: str) -> None:
    assert plan(GPUS, Budget(surge, unavailable), serving).way == way


def test_a_refusal_says_what_is_missing_and_what_to_set() -> None:
    message = plan(GPUS, Budget(1, 1), 4).message
    assert "8 GPUs" in message
    assert "maxSurge 1 nor maxUnavailable 1" in message
    assert "raise one of them to 4" in message


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (Need(1, 1, "gpu"), "1 GPU"),
        (Need(2, 4, "npu"), "8 NPUs"),
        (Need(1, 0, "cpu"), "1 worker pod"),
        (Need(3, 0, "cpu"), "3 worker pods"),
    ],
)
def test_what_a_cluster_takes_is_told_in_words(need: Need, words: str) -> None:
    assert str(need) == words


def test_never_are_accelerators_doubled_beyond_the_budget() -> None:
    for replicas in range(1, 6):
        for surge in range(6):
            for serving in range(replicas + 1):
                way = plan(Need(replicas, 1, "gpu"), Budget(surge, 1), serving).way
                assert (way == "Surge") == (surge >= replicas)
