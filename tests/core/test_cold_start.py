"""The benchmark `cold_start`: phases from moments, and the table of two starts."""

import pytest
from benchmarks.cold.on_ray import kind
from benchmarks.cold.phases import Mark, memory_rows, parts, phases, rows


def test_phases_are_the_times_between_moments_and_together_the_whole_time() -> None:
    found = phases(10.0, [Mark("ray", 14.0), Mark("serve", 14.5), Mark("engine", 20.0)])

    assert found == {"ray": 4.0, "serve": 0.5, "engine": 5.5}


def test_what_was_over_before_the_phase_ahead_of_it_took_no_time() -> None:
    # A process that Ray had started ahead of need, for example.
    found = phases(0.0, [Mark("application", 5.0), Mark("process", 3.0), Mark("weights", 6.0)])

    assert found == {"application": 5.0, "process": 0.0, "weights": 1.0}


def test_parts_follow_one_another_under_their_phases() -> None:
    marks = parts(100.0, {"fetch": 1.0, "weights": 2.5}, {"weights": "engine: weights", "fetch": "engine: folder"})

    assert marks == [Mark("engine: folder", 101.0), Mark("engine: weights", 103.5)]


def test_a_part_without_a_phase_is_not_lost_silently() -> None:
    with pytest.raises(KeyError):
        parts(0.0, {"unheard_of": 1.0}, {"fetch": "engine: folder"})


def test_rows_set_medians_ranges_shares_and_differences_side_by_side() -> None:
    ray = [{"serve": 1.0, "weights": 3.0}, {"serve": 2.0, "weights": 6.0}, {"serve": 3.0, "weights": 5.0}]
    bare = [{"weights": 4.0}]

    assert rows(["serve", "weights"], ray, bare) == [
        ["serve", "2.00 s (1.00-3.00)", "25 %", "-", "-", "+2.00 s"],
        ["weights", "5.00 s (3.00-6.00)", "62 %", "4.00 s (4.00-4.00)", "100 %", "+1.00 s"],
        ["all", "8.00 s (4.00-8.00)", "100 %", "4.00 s (4.00-4.00)", "100 %", "+4.00 s"],
    ]


def test_memory_of_a_kind_of_process_that_one_start_has_not_is_left_out() -> None:
    assert memory_rows(["engine", "proxy"], [{"engine": 500.4, "proxy": 90.0}], [{"engine": 400.0}]) == [
        ["engine", "500 MB (500-500)", "400 MB (400-400)"],
        ["proxy", "90 MB (90-90)", "-"],
    ]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("ray::ServeReplica:test.1:Engine", "engine process"),
        ("ray::test.1:Engine.initialize_and_get_metadata", "engine process"),
        ("ray::ServeReplica:test.1:Ingress", "ingress"),
        ("VLLM::EngineCore", "vLLM's engine core"),
        ("/usr/bin/python -c from multiprocessing.spawn import spawn_main", "vLLM's engine core"),
        ("ray::ServeController", "Serve's controller"),
        ("ray::IDLE", "Ray itself"),
    ],
)
def test_processes_are_told_apart_by_their_titles(title: str, expected: str) -> None:
    assert kind(title) == expected
