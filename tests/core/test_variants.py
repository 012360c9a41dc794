"""Variants of a model: which site runs which, what is never served, and what gateways, statuses and people are told."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_operator import applications, revision, routes, variants
from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.applications import ENGINE
from autoglm_operator.kuberay import names as names_of
from autoglm_operator.local import show
from autoglm_operator.plugin.tree import tree
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import ApplyApplication, InvalidDeployment, Observed, SiteError, SiteView
from autoglm_serving.config import BASE, AppConfig
from autoglm_serving.routing_table import TasksSolved, Variant, VariantPolicy
from support import fleet, kube
from support.simulation import World

Json = dict[str, Any]

INT8: Json = {"name": "int8", "quantization": "int8-weight"}
INT4: Json = {"name": "int4", "quantization": "int4-weight"}
MODEL: Json = {"name": "autoglm-phone-9b", "uri": "builtin://autoglm-tiny", "quality": {"right": 40, "samples": 100}}


def of(*found: Json, floor: float | None = None, generation: int = 1, **spec: Any) -> AutoGLMDeployment:
    """A deployment with these variants, measured or not."""
    model = MODEL | {"variants": list(found)} if found else {key: MODEL[key] for key in ("name", "uri")}
    if floor is not None:
        model["qualityFloor"] = floor
    return fleet.deployment({"model": model, **spec}, generation=generation)


def measured(variant: Json, right: int, **changes: Any) -> Json:
    return variant | {"quality": {"right": right, "samples": 100}} | changes


def at(name: str, **changes: Any) -> Json:
    return {"sites": {"names": [name]}, **changes}


def choice(deployment: AutoGLMDeployment, site: str = "a", **labels: str) -> variants.Choice:
    found = variants.choose(deployment.spec.model, fleet.site(site, labels=labels))
    assert found is not None
    return found


def arguments(world: World, site: str) -> AppConfig:
    (app,) = world.clusters[site].values()
    return AppConfig.model_validate(app.config["args"])


def changed(world: World, to: AutoGLMDeployment) -> list[str]:
    """What is written at sites until the world is at rest with another spec."""
    before = len(world.log)
    world.deployment = to.model_copy(update={"status": world.deployment.status})
    world.converge()
    return world.log[before:]


# Which variant a site runs


def test_a_site_runs_the_first_variant_that_is_for_it_else_the_model_itself() -> None:
    by_label = INT4 | {"sites": {"selector": {"matchLabels": {"memory": "small"}}}}
    deployment = of(INT8 | at("a"), by_label)
    assert choice(deployment, "a", memory="small").name == "int8"
    assert choice(deployment, "b", memory="small").name == "int4"
    assert choice(deployment, "b", memory="large") == variants.Choice(None, "no variant is for this site")
    assert choice(of(INT4, INT8), "anywhere").name == "int4", "without sites it is for all of them"


def test_a_variant_below_the_floor_is_left_out_with_the_figures_and_the_next_one_serves() -> None:
    deployment = of(measured(INT4, 30), measured(INT8, 39), floor=0.95)
    found = choice(deployment)
    assert found.name == "int8"
    assert found.why == (
        "int8 is for this site; int4 is left out: it solves 0.7500 of what the model itself solves, and the floor is 0.95"
    )
    assert choice(of(measured(INT4, 30), floor=0.95)).name == BASE


def test_a_deployment_without_variants_says_nothing_of_them() -> None:
    deployment = of()
    assert variants.choose(deployment.spec.model, fleet.site("a")) is None
    assert variants.policy_of(deployment.spec.model) is None


names = st.sampled_from(["a", "b", "c"])
counts = st.integers(1, 50)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rights=st.lists(counts, min_size=1, max_size=4),
    base=counts,
    floor=st.floats(0, 1),
    site=names,
    sites=st.lists(names, min_size=4, max_size=4),
)
def test_what_runs_at_a_site_always_reaches_the_floor_and_is_for_it(
    rights: list[int], base: int, floor: float, site: str, sites: list[str]
) -> None:
    found = [
        {"name": f"v{number}", "quantization": "int8-weight", "quality": {"right": right, "samples": 50}}
        | at(sites[number])
        for number, right in enumerate(rights)
    ]
    model = MODEL | {"variants": found, "quality": {"right": base, "samples": 50}, "qualityFloor": floor}
    spec = fleet.deployment({"model": model}).spec.model
    chosen = variants.choose(spec, fleet.site(site))
    assert chosen is not None
    good = [f"v{number}" for number, right in enumerate(rights) if sites[number] == site and right / base >= floor]
    assert chosen.name in [*good[:1], BASE] if good else chosen.name == BASE
    if chosen.variant is not None:
        policy = variants.policy_of(spec)
        assert policy is not None
        assert not policy.shortfall(chosen.name)
        share = policy.share(chosen.name)
        assert share is not None
        assert share >= floor


def test_a_share_counts_other_numbers_of_tasks_and_may_be_above_one() -> None:
    policy = VariantPolicy(
        base=TasksSolved(right=20, samples=100),
        variants=(
            Variant(name="half", quality=TasksSolved(right=5, samples=50)),
            Variant(name="better", quality=TasksSolved(right=22, samples=100)),
            Variant(name="unknown"),
        ),
        floor=0.5,
    )
    assert policy.share("half") == 0.5
    assert policy.share("better") == pytest.approx(1.1)
    assert (policy.share(BASE), policy.share("unknown"), policy.share("never heard of")) == (1.0, None, None)
    assert not policy.shortfall("half")
    assert "nobody has measured" in policy.shortfall("unknown")
    assert not policy.model_copy(update={"floor": None}).shortfall("unknown")


# What is put at sites


def test_each_engine_is_told_of_a_quantization_by_its_own_option() -> None:
    variant = INT8 | {"uri": "file:///models/small"}
    config = applications.config(of(variant, engine={"options": {"threads": 2}}))
    told = variants.applied(config, choice(of(variant)))
    assert (told.model.uri, told.model.variant) == ("file:///models/small", "int8")
    assert told.engine.options == {"threads": 2, "variant": "int8-weight"}
    fp8 = of(INT8 | {"quantization": "fp8"}, engine={"name": "vllm"})
    assert variants.applied(applications.config(fp8), choice(fp8)).engine.options == {"quantization": "fp8"}
    assert variants.applied(config, variants.Choice(None, "")) == config


def test_sites_with_a_variant_get_a_revision_of_their_own_and_the_others_are_left_alone() -> None:
    world = World(of(), {"a": {}, "b": {}})
    world.converge()
    plain = arguments(world, "a").revision
    assert changed(world, of(INT8 | at("b"), generation=2)) == ["apply b"]
    assert (arguments(world, "a").revision, arguments(world, "a").engine.options) == (plain, {})
    assert arguments(world, "b").revision != plain
    assert arguments(world, "b").engine.options == {"variant": "int8-weight"}
    status = world.deployment.status
    assert status is not None
    assert status.revision == plain
    assert [(row.name, row.variant, row.state) for row in status.sites] == [
        ("a", "base", "Ready"),
        ("b", "int8", "Ready"),
    ]
    assert status.variants == "base 1, int8 1"
    ready = next(one for one in status.conditions if one.type == "Ready")
    assert (ready.status, ready.reason) == ("True", "Answering")
    assert "2 sites (base at 1, int8 at 1)" in ready.message


def test_another_measurement_restarts_nothing_and_a_floor_above_it_changes_that_site_in_place() -> None:
    world = World(of(measured(INT8, 39) | at("b"), replicas=2), {"a": {}, "b": {}})
    world.converge()
    assert changed(world, of(measured(INT8, 38) | at("b"), replicas=2, generation=2)) == []
    assert changed(world, of(measured(INT8, 38) | at("b"), floor=0.96, replicas=2, generation=3)) == ["apply b"]
    assert arguments(world, "b") == arguments(world, "a")
    status = world.deployment.status
    assert status is not None
    row = status.sites[1]
    assert (row.variant, row.state) == ("base", "Ready")
    assert row.variant_reason is not None
    assert "int8 is left out: it solves 0.9500" in row.variant_reason


@st.composite
def model_specs(draw: st.DrawFn) -> Json:
    """Up to three variants for some of three sites, measured, with a floor or without."""
    found = [
        measured(variant, draw(st.integers(20, 40)), sites={"names": draw(st.lists(names, min_size=1, unique=True))})
        for variant in (INT8, INT4, {"name": "small", "uri": "file:///models/small"})
        if draw(st.booleans())
    ]
    floor = draw(st.sampled_from([None, 0.6, 0.8, 0.95]))
    model = MODEL | {"variants": found} | ({} if floor is None else {"qualityFloor": floor})
    return model if found else {key: MODEL[key] for key in ("name", "uri")}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models=st.lists(model_specs(), min_size=2, max_size=4))
def test_whatever_changes_every_site_comes_to_its_variant_and_no_other_site_is_touched(models: list[Json]) -> None:
    world = World(fleet.deployment({"model": models[0]}), {"a": {}, "b": {}, "c": {}})
    world.converge()
    for generation, model in enumerate(models[1:], 2):
        before = {name: arguments(world, name) for name in world.clusters}
        log = changed(world, fleet.deployment({"model": model}, generation=generation))
        after = {name: arguments(world, name) for name in world.clusters}
        assert log == [f"apply {name}" for name in sorted(after) if after[name] != before[name]]
        status, table = world.deployment.status, world.table
        assert status is not None
        assert table is not None
        assert status.conditions[0].status == "True"
        (route,) = table.routes
        for row, end in zip(status.sites, route.endpoints, strict=True):
            config = after[row.name]
            assert row.revision == (end.wanted or route.revision) == config.revision
            assert row.variant == end.variant == (config.model.variant or (BASE if "variants" in model else None))
            assert route.variants is None or not route.variants.shortfall(row.variant or BASE)
            assert revision.of(config) == config.revision


def test_replicas_of_a_variant_are_scaled_without_a_new_revision() -> None:
    world = World(of(INT8), {"a": {}})
    world.converge()
    before = arguments(world, "a")
    assert changed(world, of(INT8, replicas=3, generation=2)) == ["apply a"]
    assert arguments(world, "a") == before
    (app,) = world.clusters["a"].values()
    assert app.config["deployments"] == [{"name": ENGINE, "num_replicas": 3}]


def test_replicas_of_a_variant_that_earned_their_place_count_while_another_one_starts() -> None:
    world = World(of(INT8, replicas=2), {"a": {}})
    world.converge()
    (app,) = world.clusters["a"].values()
    app.status, app.ready, app.message = "DEPLOYING", 1, ""
    (row,) = world.step().status.sites
    assert (row.ready, row.desired, row.variant) == (1, 2, "int8")


def test_variants_and_placement_go_together() -> None:
    world = World(of(INT8 | at("b"), replicas=3, placement={}), {"a": {}, "b": {}}, cpus=2.0)
    world.converge()
    assert arguments(world, "a").model.variant == ""
    assert arguments(world, "b").model.variant == "int8"
    status = world.deployment.status
    assert status is not None
    assert (status.ready_replicas, status.variants) == (3, "base 1, int8 1")


def test_what_is_removed_from_the_spec_is_told_until_it_is_replaced() -> None:
    world = World(of(INT8), {"a": {}})
    world.converge()
    world.deployment = of(generation=2).model_copy(update={"status": world.deployment.status})
    plan = world.step()
    assert plan.status.sites[0].variant == "int8", "this is what still runs"
    world.converge()
    status = world.deployment.status
    assert status is not None
    assert (status.sites[0].variant, status.sites[0].variant_reason, status.variants) == (None, None, None)


def test_at_a_kuberay_site_a_variant_changes_in_place_and_keeps_the_pods() -> None:
    running = of(measured(INT8, 38))
    stored = kube.view("pods", kube.stored(running, "pods"))
    (before,) = stored.applications or ()
    assert before.variant == "int8"
    assert before.ray_service is not None
    raised = of(measured(INT8, 38), floor=0.99, generation=2)
    (change,) = reconcile(raised, Observed(sites=(stored,)), fleet.NOW).applications
    assert isinstance(change, ApplyApplication)
    assert change.application["args"]["model"] == {"name": "autoglm-phone-9b", "uri": "builtin://autoglm-tiny"}
    made = change.manifests[0]
    assert made["metadata"]["annotations"][names_of.CLUSTER_HASH] == before.ray_service.cluster_hash
    assert "int8" not in made["spec"]["serveConfigV2"]


# What gateways are told


def test_a_route_tells_the_variant_of_each_endpoint_its_revision_and_what_each_solves() -> None:
    world = World(of(measured(INT8, 39) | at("b"), floor=0.9), {"a": {}, "b": {}})
    world.converge()
    assert world.table is not None
    (route,) = world.table.routes
    plain, small = route.endpoints
    assert (plain.variant, plain.wanted) == ("base", None)
    assert (small.variant, small.wanted) == ("int8", arguments(world, "b").revision)
    assert route.revision == arguments(world, "a").revision
    assert route.variants == VariantPolicy(
        base=TasksSolved(right=40, samples=100),
        variants=(Variant(name="int8", quality=TasksSolved(right=39, samples=100)),),
        floor=0.9,
    )


def test_a_deployment_without_variants_sends_gateways_no_new_key() -> None:
    world = World(of(), {"a": {}})
    world.converge()
    assert world.table is not None
    text = world.table.model_dump_json(by_alias=True, exclude_none=True)
    assert not [key for key in ("variant", "wanted") if key in text], "an older gateway would refuse it"


def test_a_site_that_is_silent_keeps_what_it_was_told_and_its_place() -> None:
    world = World(of(INT8 | at("b")), {"a": {}, "b": {}})
    world.converge()
    small = arguments(world, "b").revision
    world.cut("b")
    plan = world.step()
    row = plan.status.sites[1]
    assert (row.variant, row.variant_reason) == ("int8", "int8 is for this site")
    assert [(end.site, end.wanted) for end in plan.routes[0].endpoints] == [("a", None), ("b", small)]


def test_the_routes_of_an_unusable_spec_are_those_of_the_variants_that_run() -> None:
    world = World(of(INT8 | at("b")), {"a": {}, "b": {}})
    world.converge()
    assert world.table is not None
    world.clusters["a"]["team.quickstart"].ready = 0  # what leads is the model itself all the same
    meta, status = world.deployment.metadata, world.deployment.status
    observed = replace(world.observed(), published=None)
    invalid = InvalidDeployment(meta, (), status)
    (rebuilt,) = reconcile(invalid, observed, world.now).routes
    before = world.table.routes[0]
    assert rebuilt.revision == before.revision
    assert [end.wanted for end in rebuilt.endpoints] == [end.wanted for end in before.endpoints]
    unread = SiteView(fleet.site("b"), error=SiteError("Unreachable", "no answer"))
    some = replace(observed, sites=(observed.sites[0], unread))
    (guessed,) = reconcile(invalid, some, world.now).routes
    assert [end.wanted for end in guessed.endpoints] == [end.wanted for end in before.endpoints]


def test_routes_of_a_variant_alone_ask_for_its_revision() -> None:
    world = World(of(INT8), {"a": {}})
    world.converge()
    assert world.table is not None
    (route,) = world.table.routes
    assert route.endpoints[0].wanted == arguments(world, "a").revision != route.revision
    status = world.deployment.status
    assert status is not None
    assert status.conditions[0].status == "True"
    assert routes.application_at(route.endpoints, "a") == "team.quickstart"


# What people are told


def test_statuses_say_which_variant_runs_where_and_why() -> None:
    world = World(of(measured(INT8, 30) | at("b"), floor=0.9), {"a": {}, "b": {}})
    plan = world.converge()
    raw = world.deployment.model_copy(update={"status": plan.status}).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    explained = show.explain(raw, (), world.now)
    assert "SITE   VARIANT   WHY" in explained
    assert "b      base      int8 is left out: it solves 0.7500" in explained
    text = tree(raw, (), world.now)
    assert "variant base" in text
    assert "variant: int8 is left out" in text
