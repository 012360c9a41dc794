"""A definition that changes lets other fields through, and no object gets another version by it: the operator finds out."""

import copy
from typing import Any

import pytest

from autoglm_operator.controller.objects import Objects
from autoglm_operator.store import DEPLOYMENT, SITE, ObjectKey
from support import manifests

Json = dict[str, Any]

KEY = ObjectKey(DEPLOYMENT, "team", "phones")
USABLE = manifests.deployment()
USABLE["metadata"] |= {"namespace": "team", "uid": "uid-1", "generation": 1, "resourceVersion": "7"}
UNKNOWN = copy.deepcopy(USABLE)
UNKNOWN["spec"]["formerHint"] = "kept"


@pytest.fixture
def objects() -> Objects:
    return Objects()


def test_an_object_that_cannot_be_used_is_read_anew(objects: Objects) -> None:
    objects.put_deployment(UNKNOWN)
    assert objects.current(KEY, 0.0) is None
    objects.put_deployment(USABLE)
    assert objects.current(KEY, 0.0) is USABLE


def test_it_is_not_read_at_each_look_but_after_a_while_and_when_it_changes(objects: Objects) -> None:
    reads = []
    for second in range(100):
        if objects.current(KEY, float(second)) is None:
            reads.append(second)
            objects.put_deployment(copy.deepcopy(UNKNOWN))
    assert reads == [0, 1, 31, 61, 91], "the first time nothing was known"
    objects.stale.add(KEY)
    assert objects.current(KEY, 99.0) is None


def test_an_invalid_site_is_read_anew_too(objects: Objects) -> None:
    raw = manifests.site(formerHint="kept")
    raw["metadata"] |= {"uid": "uid-2", "generation": 1, "resourceVersion": "7"}
    objects.put_site(raw)
    assert objects.current(ObjectKey(SITE, "", raw["metadata"]["name"]), 0.0) is None


@pytest.mark.parametrize(
    ("known", "listed", "differs"),
    [
        (USABLE, [USABLE], False),
        (UNKNOWN, [USABLE], True),
        (USABLE, [UNKNOWN], True),
        (USABLE, [], True),
        (None, [USABLE], True),
    ],
    ids=["the same", "a field is gone", "a field has come", "it is gone", "it is new"],
)
def test_the_full_list_shows_what_reads_differently(
    objects: Objects, known: Json | None, listed: list[Json], *, differs: bool
) -> None:
    if known is not None:
        objects.put_deployment(known)
    assert objects.differing(DEPLOYMENT, copy.deepcopy(listed)) == ({KEY} if differs else set())


def test_what_only_the_status_says_is_told_by_the_version(objects: Objects) -> None:
    objects.put_deployment(USABLE)
    other = copy.deepcopy(USABLE)
    other["status"] = {"revision": "0123456789"}
    other["metadata"]["resourceVersion"] = "8"
    assert objects.differing(DEPLOYMENT, [other]) == {KEY}
