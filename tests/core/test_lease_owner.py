"""The Lease belongs to the account of the operator, so that an uninstall leaves no Lease behind."""

import base64
import json
from typing import Any, cast

import pytest
from kubernetes.client import Configuration

from autoglm_operator.kube import Call, Forbidden, KubeApi, KubeLease, account_of, bearer_token
from autoglm_operator.lease import Elector, LeaseName

CLAIMS: dict[str, Any] = {
    "sub": "system:serviceaccount:system:operator",
    "kubernetes.io": {
        "namespace": "system",
        "serviceaccount": {"name": "operator", "uid": "u-1"},
        "pod": {"uid": "u-2"},
    },
}
OWNER = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "operator", "uid": "u-1"}


def token(claims: Any) -> str:
    """As the API server signs them: base64 without padding."""
    parts = ({"alg": "RS256"}, claims)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, "signature"])


@pytest.mark.parametrize("name", ["operator", "operator-1", "operator-12", "operator-123"])
def test_the_owner_is_read_from_the_token_whatever_its_length(name: str) -> None:
    claims = {"kubernetes.io": {"namespace": "system", "serviceaccount": {"name": name, "uid": "u-1"}}}
    assert account_of(token(claims), "system") == {**OWNER, "name": name}


def test_an_account_of_another_namespace_owns_nothing_here() -> None:
    assert account_of(token(CLAIMS), "system") == OWNER
    assert account_of(token(CLAIMS), "elsewhere") is None


@pytest.mark.parametrize(
    "told",
    [
        "",
        "admin-secret",
        "a.b.c",
        "a.ä.c",
        token([]),
        token({"sub": "user"}),
        token({"kubernetes.io": {"namespace": "system"}}),
    ],
)
def test_a_token_that_is_no_accounts_owns_nothing(told: str) -> None:
    assert account_of(told, "system") is None


@pytest.mark.parametrize(("stored", "read"), [("bearer abc", "abc"), ("Bearer abc", "abc"), ("abc", "abc"), ("", "")])
def test_the_token_is_found_as_the_client_keeps_it(stored: str, read: str) -> None:
    configuration = Configuration()
    configuration.api_key["BearerToken"] = stored
    assert bearer_token(configuration) == read
    assert bearer_token(Configuration()) == ""


class Recorder:
    """Takes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def request(self, call: Call) -> dict[str, Any]:
        self.calls.append(call)
        return {}


@pytest.mark.parametrize(("owner", "written"), [(OWNER, [OWNER]), (None, None)])
async def test_the_lease_is_made_and_kept_with_its_owner(owner: Any, written: Any) -> None:
    recorder = Recorder()
    lease = KubeLease(cast("KubeApi", recorder), "system", "operator", owner)
    body = {"metadata": {"name": "operator"}, "spec": {"holderIdentity": "a"}}
    await lease.create(body)
    await lease.replace(body)
    for call in recorder.calls:
        assert call.body["metadata"].get("ownerReferences") == written
        assert call.body["spec"] == body["spec"]
    assert body["metadata"] == {"name": "operator"}


FORMER: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "former", "uid": "u-0"}


class Guarded:
    """An API server with OwnerReferencesPermissionEnforcement: whoever may not delete the Lease may not change its owners.

    `closed` takes the right to write it away as well.
    """

    def __init__(self, owners: list[dict[str, Any]], closed: bool = False) -> None:
        self.lease: dict[str, Any] = {"metadata": {"name": "operator", "resourceVersion": "1"}, "spec": {}}
        if owners:
            self.lease["metadata"]["ownerReferences"] = owners
        self.closed = closed
        self.refused = 0

    async def request(self, call: Call) -> dict[str, Any]:
        if call.method == "GET":
            return self.lease
        stored, told = (one["metadata"].get("ownerReferences") or [] for one in (self.lease, call.body))
        if self.closed or stored != told:
            self.refused += 1
            raise Forbidden("cannot set an ownerRef on a resource you can't delete")
        self.lease = call.body
        return self.lease


def elector(guarded: Guarded) -> Elector:
    lease = KubeLease(cast("KubeApi", guarded), "system", "operator", OWNER)
    return Elector(lease, LeaseName("system", "operator", "a"))


@pytest.mark.parametrize("stored", [[], [FORMER]], ids=["of nobody", "of another account"])
async def test_where_owners_may_not_be_changed_the_operator_leads_with_those_that_are_stored(stored: Any) -> None:
    guarded = Guarded(stored)
    ours = elector(guarded)
    for _ in range(3):
        assert await ours._try()
    assert ours.epoch() == 1
    assert guarded.lease["spec"]["holderIdentity"] == "a"
    assert guarded.lease["metadata"].get("ownerReferences", []) == stored
    assert guarded.refused == 1, "it is not asked again at each renewal"


async def test_an_operator_that_may_not_write_the_lease_says_so_once() -> None:
    guarded, told = Guarded([OWNER], closed=True), list[str]()
    ours = elector(guarded)
    ours.warn = told.append
    assert [await ours._try() for _ in range(3)] == [False, False, False]
    assert told == ["cannot set an ownerRef on a resource you can't delete"]
    assert guarded.refused == 3, "the stored owner is ours already: nothing is left to try"
    assert ours.epoch() is None
