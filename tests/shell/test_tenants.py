"""Two tenants of one replica with the same words and pictures: neither finds, nor can tell by the work of an answer, what
the other has sent.

A probe's work is the processor time of all that the replica consists of, and each probe for what the other has sent has one
for something new right beside it. Time by the clock would have what else runs on the machine in it, which hides a
difference as well as it invents one; what a cache saves is work. That work tells hits from misses at all is shown beside
it: a tenant's probes for its own content are told apart.
"""

from pathlib import Path
from statistics import median

import pytest

from autoglm_serving.config import EngineName
from support.models import engine_config
from support.tenants import FRESH, GUESS, OWN, SMALL, Found, application, probe, told_apart
from support.vllm_process import result_of, scenario

PROBES = 2000
DEADLINE_S = 3000.0


@pytest.mark.parametrize(
    ("off", "used"),
    [
        ((), {"decoded", "prefix"}),
        (("prefixCacheMib",), {"decoded", "features"}),
        (("prefixCacheMib", "featureCacheMib"), {"decoded", "pixels"}),
    ],
)
async def test_what_a_tenant_has_sent_is_in_no_cache_for_another(
    folder: Path, off: tuple[str, ...], used: set[str]
) -> None:
    """A known prefix keeps the caches of pictures from being asked, so they are looked at without it too."""
    options = {**SMALL["transformers"], **dict.fromkeys(off, 0)}
    async with application(engine_config(folder, **options)) as app:
        found = await probe(app, 6)
    _expect_nothing_found(found)
    assert {name for name, hits in found.hits[OWN].items() if hits >= 6} == used


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(DEADLINE_S + 300)
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_work_of_an_answer_does_not_tell_what_another_tenant_has_sent(
    folder: Path, tmp_path: Path, engine: EngineName
) -> None:
    if engine == "vllm":
        pytest.importorskip("vllm", reason="vLLM is an extra")
    with scenario("support.tenants", folder, tmp_path, DEADLINE_S, engine, str(PROBES)) as process:
        found = Found(**result_of(process))
    for kind, work in found.work.items():
        print(f"{engine}, {kind}: {len(work)} probes, median {1000 * median(work):.2f} ms, hits {found.hits[kind]}")
    others, own = (told_apart(found.work[kind], found.work[FRESH]) for kind in (GUESS, OWN))
    print(f"{engine}: AUC of another tenant's content {others:.3f}, of one's own {own:.3f}")
    assert all(len(found.work[kind]) == PROBES for kind in (GUESS, FRESH, OWN))
    _expect_nothing_found(found)
    assert found.cached_tokens[OWN] > 64 * PROBES
    assert own >= 0.95, "the work does not tell a hit from a miss, so it shows nothing of other tenants"
    assert others <= 0.55


def _expect_nothing_found(found: Found) -> None:
    for kind in (GUESS, FRESH):
        assert set(found.hits[kind].values()) == {0}, (kind, found.hits[kind])
        assert found.cached_tokens[kind] == 0
