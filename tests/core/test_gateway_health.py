"""Admission of an endpoint and its breaker, step by step."""

from datetime import UTC, datetime, timedelta

from autoglm_serving.gateway.health import (
    ADMITTED_PROBE_SECONDS,
    MAX_OPEN_SECONDS,
    MAX_RETRY_SECONDS,
    RETURN_FAILURES,
    RETURN_RETRY_SECONDS,
    Health,
    answered,
    busy,
    probe_delay,
    probe_failed,
    request_failed,
    served,
    wanted_changed,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=10)
NEW = Health(observed_at=NOW)
ADMITTED = answered(NEW, "r1", "r1", 0.5, NOW)


def failed_times(health: Health, times: int) -> Health:
    for _ in range(times):
        health = probe_failed(health, "no answer", LATER, 100.0)
    return health


def test_an_endpoint_is_not_trusted_before_it_answered() -> None:
    assert (NEW.state, NEW.answers, NEW.probed) == ("Probing", False, False)


def test_the_wanted_revision_admits_it() -> None:
    assert (ADMITTED.state, ADMITTED.answers, ADMITTED.revision, ADMITTED.ttft_s) == ("Admitted", True, "r1", 0.5)


def test_the_variant_that_answered_last_is_known() -> None:
    small = answered(NEW, "r2", "r2", 0.5, NOW, "int8")
    assert (NEW.variant, small.variant) == ("", "int8")
    assert answered(small, "r1", "r2", 0.5, LATER).variant == "", "the model itself does not name itself"
    assert served(NEW, "r2", "r2", 0.5, LATER, "int8").variant == "int8"
    assert served(small, "r1", "r2", 9.0, LATER).variant == "int8", "a slow answer that the change has overtaken"
    assert probe_failed(wanted_changed(small, "r3"), "no answer", LATER, 100.0).variant == "int8"


def test_another_revision_serves_but_is_not_admitted() -> None:
    old = answered(NEW, "r0", "r1", 0.5, NOW)
    assert (old.state, old.answers) == ("Probing", True)
    assert old.message == "revision r0 answers; waiting for revision r1"
    assert "without a revision" in answered(NEW, "", "r1", 0.5, NOW).message


def test_two_failed_probes_do_not_take_an_admitted_endpoint_out_and_the_third_does() -> None:
    shaken = failed_times(ADMITTED, 2)
    assert (shaken.state, shaken.answers) == ("Admitted", True)
    assert "2 probes failed: no answer" in shaken.message
    out = failed_times(ADMITTED, 3)
    assert (out.state, out.answers, out.message) == ("ProbeFailed", False, "no answer")


def test_failures_must_come_in_a_row() -> None:
    health = answered(failed_times(ADMITTED, 2), "r1", "r1", 0.4, LATER)
    assert failed_times(health, 2).state == "Admitted"


def test_an_endpoint_that_failed_comes_back_with_one_answer() -> None:
    assert answered(failed_times(ADMITTED, 5), "r1", "r1", 0.4, LATER).state == "Admitted"


def test_a_full_server_is_no_dead_server() -> None:
    health = busy(failed_times(ADMITTED, 2), LATER)
    assert (health.state, health.failures) == ("Admitted", 0)


def test_a_new_wanted_revision_ends_the_admission_but_not_the_service() -> None:
    health = wanted_changed(ADMITTED, "r2")
    assert (health.state, health.answers) == ("Probing", True)
    assert "waiting for revision r2" in health.message
    assert wanted_changed(ADMITTED, "r1") is ADMITTED


def test_two_failed_requests_open_the_breaker_for_longer_each_time() -> None:
    once = request_failed(ADMITTED, 100.0)
    assert once.breaker_open_until <= 100.0
    twice = request_failed(once, 100.0)
    thrice = request_failed(twice, 100.0)
    assert 100.0 < twice.breaker_open_until < thrice.breaker_open_until
    health = thrice
    for _ in range(50):
        health = request_failed(health, 100.0)
    assert health.breaker_open_until == 100.0 + MAX_OPEN_SECONDS


def test_an_answer_closes_the_breaker() -> None:
    broken = request_failed(request_failed(ADMITTED, 100.0), 100.0)
    assert answered(broken, "r1", "r1", 0.4, LATER).breaker_open_until == 0.0


def test_a_late_answer_of_the_old_revision_does_not_end_an_admission() -> None:
    broken = request_failed(request_failed(ADMITTED, 100.0), 100.0)
    late = served(broken, "r0", "r1", 9.0, LATER)
    assert (late.state, late.revision, late.breaker_open_until) == ("Admitted", "r1", 0.0)
    assert served(NEW, "r0", "r1", 9.0, LATER).state == "Probing"
    assert served(NEW, "r1", "r1", 9.0, LATER).state == "Admitted"


def test_probes_are_rare_while_all_is_well_and_soon_when_it_is_not() -> None:
    assert probe_delay(ADMITTED) == ADMITTED_PROBE_SECONDS
    assert probe_delay(NEW) < 1
    assert probe_delay(request_failed(ADMITTED, 1.0)) < 1
    assert probe_delay(failed_times(NEW, 1000)) == MAX_RETRY_SECONDS


def test_an_endpoint_that_is_gone_for_hours_after_a_failed_request_is_still_looked_for() -> None:
    gone = failed_times(request_failed(ADMITTED, 1.0), 5000)
    assert gone.breaker_open_until == 100.0 + MAX_OPEN_SECONDS
    assert probe_delay(gone) == MAX_RETRY_SECONDS


def test_a_full_server_is_not_probed_without_a_pause() -> None:
    full = busy(request_failed(ADMITTED, 1.0), LATER)
    assert probe_delay(full) >= 0.5
    assert probe_delay(request_failed(full, 2.0)) == 0.0, "another failed request is looked into again"


def test_an_endpoint_that_has_answered_is_looked_for_more_often_for_a_while() -> None:
    assert probe_delay(failed_times(ADMITTED, 3)) == RETURN_RETRY_SECONDS
    assert probe_delay(failed_times(ADMITTED, RETURN_FAILURES)) == RETURN_RETRY_SECONDS
    assert probe_delay(failed_times(ADMITTED, RETURN_FAILURES + 1)) == MAX_RETRY_SECONDS
    assert probe_delay(failed_times(NEW, 10)) == MAX_RETRY_SECONDS


def test_a_failed_request_is_looked_into_at_once_and_a_failed_probe_then_opens_the_breaker() -> None:
    shaken = request_failed(ADMITTED, 100.0)
    assert probe_delay(shaken) == 0.0
    gone = probe_failed(shaken, "no answer", LATER, 100.5)
    assert gone.breaker_open_until > 100.5
    assert gone.answers, "it is kept for the last resort"
    assert probe_delay(gone) > 0.0
    assert failed_times(ADMITTED, 2).breaker_open_until == 0.0, "probes alone do not open it"
    assert answered(gone, "r1", "r1", 0.5, LATER).breaker_open_until == 0.0
