"""Signed tables: only what the operator signed is read, and it reads back the same."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from autoglm_serving.routing_table import (
    Endpoint,
    GatewayReport,
    ResolutionPolicy,
    Route,
    RoutingTable,
    SignedTable,
    TableRefused,
    TasksSolved,
    Variant,
    VariantPolicy,
    sign,
    verify,
)

KEY = b"secret"
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def table(**changes: object) -> RoutingTable:
    endpoint = Endpoint(
        site="edge-1", url="http://10.0.0.5:8000/ns.phone", revision="r1", tier="edge", bandwidth_bps=2e7
    )
    route = Route(deployment="ns/phone", model="手机", uid="u", revision="r1", endpoints=(endpoint,), ttft_target_s=2.0)
    return RoutingTable(**{"epoch": 3, "version": 7, "written_at": NOW, "routes": (route,), **changes})  # type: ignore[arg-type]


def test_a_signed_table_reads_back_the_same() -> None:
    assert verify(sign(table(), KEY), KEY) == table()


def test_it_travels_as_json() -> None:
    text = sign(table(), KEY).model_dump_json(by_alias=True)
    assert verify(SignedTable.model_validate_json(text), KEY) == table()
    assert "ttftTargetS" in sign(table(), KEY).payload


def test_variants_travel_and_a_deployment_without_sends_no_key_of_them() -> None:
    policy = VariantPolicy(
        base=TasksSolved(right=4, samples=9), variants=(Variant(name="int8", quality=TasksSolved(right=3, samples=9)),)
    )
    small = table().routes[0].endpoints[0].model_copy(update={"variant": "int8", "wanted": "r2"})
    route = table().routes[0].model_copy(update={"endpoints": (small,), "variants": policy})
    assert verify(sign(table(routes=(route,)), KEY), KEY).routes == (route,)
    assert not [key for key in ("variant", "wanted") if key in sign(table(), KEY).payload]
    with pytest.raises(ValidationError, match="must not be above samples"):
        TasksSolved(right=2, samples=1)


def test_another_key_is_refused_with_the_reason() -> None:
    with pytest.raises(TableRefused, match="different keys"):
        verify(sign(table(), KEY), b"other")


def test_an_empty_key_is_refused_even_when_both_sides_have_it() -> None:
    with pytest.raises(TableRefused, match="empty"):
        verify(sign(table(), b""), b"")


@pytest.mark.parametrize("signature", ["", "00", "é", "x" * 64])
def test_a_broken_signature_is_refused(signature: str) -> None:
    with pytest.raises(TableRefused, match="signature"):
        verify(sign(table(), KEY).model_copy(update={"signature": signature}), KEY)


def test_one_changed_character_is_refused() -> None:
    signed = sign(table(), KEY)
    with pytest.raises(TableRefused, match="signature"):
        verify(signed.model_copy(update={"payload": signed.payload.replace("10.0.0.5", "10.0.0.6")}), KEY)


def test_a_signed_table_with_a_bad_value_names_the_field() -> None:
    payload = sign(table(), KEY).payload.replace('"retries":1', '"retries":99')
    resigned = SignedTable(payload=payload, signature=_signature(payload))
    with pytest.raises(TableRefused, match=r"routes\.0\.retries"):
        verify(resigned, KEY)


def _signature(payload: str) -> str:
    import hashlib
    import hmac

    return hmac.new(KEY, payload.encode(), hashlib.sha256).hexdigest()


def test_an_endpoint_with_an_unusable_url_is_no_reason_to_refuse_the_table() -> None:
    bad = Endpoint(site="x", url="not a url", revision="r1")
    with_bad = table(routes=(table().routes[0].model_copy(update={"endpoints": (bad,)}),))
    assert verify(sign(with_bad, KEY), KEY).routes[0].endpoints == (bad,)


def test_a_new_leader_comes_after_every_table_of_the_old_one() -> None:
    assert table(epoch=4, version=0).generation > table(epoch=3, version=99).generation


def test_a_report_of_a_newer_gateway_is_read_without_what_is_new_and_a_table_is_not() -> None:
    admission = {"deployment": "team/quickstart", "site": "a", "revision": "r1", "state": "Admitted", "message": ""}
    at = "2026-03-01T12:00:00Z"
    told = {
        "tableEpoch": 1,
        "tableVersion": 2,
        "startedAt": at,
        "news": {"of": "a later version"},
        "admissions": [{**admission, "observedAt": at, "news": 1}],
    }
    report = GatewayReport.model_validate(told)
    assert (report.table_version, report.admissions[0].revision) == (2, "r1")
    with pytest.raises(ValidationError):
        RoutingTable.model_validate({"epoch": 1, "version": 2, "writtenAt": at, "news": 1})


def test_two_deployments_with_one_model_name_have_one_winner() -> None:
    route = table().routes[0]
    other = route.model_copy(update={"deployment": "aa/first"})
    for routes in ((route, other), (other, route)):
        winner = table(routes=routes).for_model("手机")
        assert winner is not None
        assert winner.deployment == "aa/first"
    assert table().for_model("no") is None


def test_resolution_bounds_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="minShortSide"):
        ResolutionPolicy(min_short_side=900, max_short_side=600)
