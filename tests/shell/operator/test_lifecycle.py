"""A deployment's life against a real API server: made, scaled, edited, deleted, kept."""

import json

from support.operator import OperatorProcess, World


def test_an_applied_deployment_becomes_ready(world: World) -> None:
    world.apply_site()
    world.apply_deployment(replicas=2)

    world.api.kubectl("wait", "--for=condition=Ready", "agd/phones", "-n", world.namespace, "--timeout=120s")

    config = world.ray.config(world.application())
    assert config is not None
    stored = world.deployment()
    assert stored is not None
    assert config["args"]["uid"] == stored["metadata"]["uid"]
    system = world.installation.request("GET", "/api/v1/namespaces/kube-system") or {}
    assert config["args"]["cluster"] == system["metadata"]["uid"]
    assert stored["status"]["readyReplicas"] == 2
    assert world.condition("Connected")[0] == "True"
    assert world.routes() == {f"{world.namespace}/phones"}
    assert "Ready" in world.api.kubectl("describe", "agd/phones", "-n", world.namespace)


def test_the_operator_changes_nothing_but_status_and_finalizers(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    stored = world.deployment() or {}
    managers = {
        (entry["manager"], entry.get("subresource"), entry["operation"])
        for entry in json.loads(
            world.api.kubectl("get", "agd/phones", "-n", world.namespace, "-o", "json", "--show-managed-fields")
        )["metadata"]["managedFields"]
    }
    assert ("autoglm-operator", "status", "Apply") in managers
    assert {manager for manager, *_ in managers} == {"autoglm-operator", "kubectl-client-side-apply"}
    assert set(stored["metadata"]["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}
    assert stored["metadata"]["finalizers"] == ["serving.autoglm.dev/applications"]


def test_the_operator_may_not_list_secrets_or_change_other_things(world: World) -> None:
    account = "--as=system:serviceaccount:autoglm-system:autoglm-operator"
    for verb, resource in (
        ("list", "secrets"),
        ("get", "secrets"),
        ("update", "autoglmdeployments"),
        ("create", "pods"),
    ):
        answer = world.api.kubectl("auth", "can-i", verb, resource, "-n", "default", account, check=False)
        assert answer.strip().endswith("no"), f"{verb} {resource}: {answer}"


def test_kubectl_scale_changes_the_replicas_in_place(world: World) -> None:
    world.apply_site()
    world.apply_deployment(replicas=1)
    world.wait_ready()
    before = world.ray.config(world.application())

    world.api.kubectl("scale", "agd/phones", "--replicas=3", "-n", world.namespace)
    world.wait(lambda: (world.deployment() or {})["status"].get("readyReplicas") == 3, "three replicas are ready")

    after = world.ray.config(world.application())
    assert before is not None
    assert after is not None
    assert after["args"] == before["args"], "changed arguments would restart every replica"


def test_an_edited_spec_becomes_a_new_revision(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    old = (world.deployment() or {})["status"]["revision"]

    world.apply_deployment(engine={"maxConcurrency": 7})
    world.wait_ready()

    config = world.ray.config(world.application())
    assert config is not None
    assert config["args"]["engine"]["maxConcurrency"] == 7
    assert (world.deployment() or {})["status"]["revision"] == config["args"]["revision"] != old


def test_a_deleted_deployment_leaves_nothing_behind(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()

    world.api.kubectl("delete", "agd/phones", "-n", world.namespace, "--timeout=120s")

    assert world.deployment() is None
    world.wait(lambda: world.application() not in world.ray.live(), "the application is gone")
    world.wait(lambda: not world.routes(), "the routes are gone")


def test_a_deleted_site_lets_go_after_its_applications(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    world.api.kubectl("delete", "agd/phones", "-n", world.namespace, "--timeout=120s")

    world.api.kubectl("delete", f"ags/{world.site}", "--timeout=120s")

    assert world.stored_site() is None
    assert not world.ray.live()


def test_an_application_that_somebody_deletes_comes_back(world: World) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    puts = len(world.ray.puts)

    world.ray.remove(world.application())

    world.wait(lambda: world.ray.config(world.application()) is not None, "it is there again")
    world.wait_ready()
    assert len(world.ray.puts) > puts


def test_nothing_is_written_while_nothing_changes(world: World, operator: OperatorProcess) -> None:
    world.apply_site()
    world.apply_deployment()
    world.wait_ready()
    world.wait(lambda: world.condition("Progressing")[0] == "False", "nothing progresses")
    stored, site = world.deployment(), world.stored_site()
    puts, gets, reports = len(world.ray.puts), world.ray.count("GET"), world.gateway.reports
    tables = len(world.gateway.tables)
    writes = operator.metric('autoglm_operator_kubernetes_request_seconds_count{method="PATCH",outcome="200"}')
    assert writes > 0, "the metric counts writes at all"

    # Long enough for several looks at the site and at the gateway, and for a pass at its steady pace.
    world.wait(lambda: world.ray.count("GET") >= gets + 3 and world.gateway.reports >= reports + 10, "it looked again")

    assert world.deployment() == stored
    assert world.stored_site() == site
    assert len(world.ray.puts) == puts
    assert len(world.gateway.tables) == tables
    assert writes == operator.metric('autoglm_operator_kubernetes_request_seconds_count{method="PATCH",outcome="200"}')
    assert operator.metric("autoglm_operator_leader") == 1


def test_a_name_that_somebody_else_took_is_left_alone(world: World) -> None:
    taken = world.ray.add_foreign(world.application())
    neighbour = world.ray.add_foreign("shop")
    world.ray.add_foreign("notebook", declarative=False)
    world.apply_site()
    world.apply_deployment()
    world.apply_deployment("kiosks", model={"name": "autoglm-kiosk", "uri": "builtin://autoglm-tiny"})

    world.wait_ready("kiosks")
    world.wait(lambda: world.condition("SitesReady")[1] == "NameTaken", "the conflict is told")

    assert world.ray.config(world.application()) == taken
    assert world.ray.config("shop") == neighbour
    assert "notebook" in world.ray.applications
    assert world.condition("Ready")[0] == "False"


def test_an_invalid_stored_deployment_gets_a_condition_and_can_be_deleted(world: World) -> None:
    """The API server refuses invalid specs; older objects, written under other rules, may still be there."""
    name = "autoglmdeployments.serving.autoglm.dev"
    rules = json.loads(world.api.kubectl("get", "crd", name, "-o", "json"))
    loose = json.loads(json.dumps(rules))
    for key in ("resourceVersion", "managedFields"):
        loose["metadata"].pop(key, None)
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    world.apply_site()
    try:
        world.api.kubectl("replace", "-f", "-", stdin=json.dumps(loose))
        world.wait(lambda: _accepts(world), "the API server takes it")
        world.wait(lambda: world.condition("Ready", "broken")[1] == "InvalidSpec", "the problem is told")
        status, _, message = world.condition("Ready", "broken")
        assert status == "False"
        assert "spec.model.uri" in message
    finally:
        loose["spec"] = rules["spec"]
        world.api.kubectl("replace", "-f", "-", stdin=json.dumps(loose))
    world.api.kubectl("delete", "agd/broken", "-n", world.namespace, "--timeout=120s")


def _accepts(world: World) -> bool:
    if world.deployment("broken") is None:
        bad = {"name": "autoglm-phone-9b", "uri": "ftp://weights"}
        made = {
            "apiVersion": "serving.autoglm.dev/v1alpha1",
            "kind": "AutoGLMDeployment",
            "metadata": {"name": "broken", "namespace": world.namespace},
            "spec": {"model": bad, "replicas": 1},
        }
        world.api.kubectl("create", "-f", "-", stdin=json.dumps(made), check=False)
    return world.deployment("broken") is not None
