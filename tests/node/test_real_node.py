"""From `helm install` to an uninstall without a trace on a real node, where pods run and KubeRay makes the Ray clusters."""

import pytest
import yaml

from support import rights
from support.kubernetes import ControlPlane
from support.node.release import SITE, SYSTEM, USERS, WAIT, Release, Watch, screenshot

# The chart leaves the definitions, since every deployment and site would go with them (crds.keep).
KEPT = {
    "apiextensions.k8s.io/v1 CustomResourceDefinition <none> autoglmdeployments.serving.autoglm.dev",
    "apiextensions.k8s.io/v1 CustomResourceDefinition <none> autoglmsites.serving.autoglm.dev",
    "apiregistration.k8s.io/v1 APIService <none> v1alpha1.serving.autoglm.dev",
}

# Rights of which this run makes no use, or of which the audit log does not tell.
NOT_SEEN = {
    ("", "events", "patch"): "an event is told again",
    ("ray.io", "rayclusters", "get"): "workers are scaled",
    ("ray.io", "rayclusters", "patch"): "workers are scaled",
    **{
        (group, kind, "create"): "server-side apply asks for it, and is recorded as a patch"
        for group, kind in (
            ("networking.k8s.io", "networkpolicies"),
            ("policy", "poddisruptionbudgets"),
            ("ray.io", "rayservices"),
        )
    },
}

# Twice what it took at a load of 20 to 56 on two cores; another run's node, which may be waited for, does not count.
pytestmark = pytest.mark.timeout(1200, func_only=True)


def test_a_deployment_lives_on_a_real_node_from_helm_install_to_an_uninstall_without_a_trace(release: Release) -> None:
    watch = Watch()
    before = release.everything()
    release.install()
    watch.stage("helm install: every pod of the chart is ready")
    assert "Phase:          Succeeded" in release.helm("test", "autoglm")
    watch.stage("helm test")

    release.apply_site()
    release.apply_quickstart()
    release.wait_ready()
    watch.stage("apply to Ready: KubeRay's head, worker and Serve application")
    answer, headers = release.ask(screenshot())
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["usage"]["prompt_tokens"] > 100, "the picture was seen"
    assert headers["x-autoglm-site"] == SITE
    first = release.deployment()["status"]["revision"]
    assert headers["x-autoglm-revision"] == first
    (cluster,) = release.names("raycluster")
    assert f"site {SITE}: Ready 1/1 revision {first}" in release.autoglm("status", "quickstart")
    watch.stage("a screenshot is answered")

    # A change of the Serve application is made in place.
    release.apply_quickstart(limits={"maxQueue": 7})
    release.wait(
        lambda: release.deployment()["status"]["revision"] != first and release.is_ready(), "revision 2 is Ready"
    )
    second = release.ask(screenshot())[1]["x-autoglm-revision"]
    assert second != first
    assert release.names("raycluster") == [cluster]
    watch.stage("another revision answers, on the same Ray cluster")

    # Operator and gateways are replaced while Ray goes on, and no status says otherwise.
    since = release.ready_since()
    release.install({"commonLabels": {"upgraded": "yes"}})
    assert release.ask(screenshot())[1]["x-autoglm-revision"] == second
    watch.stage("helm upgrade, and an answer")
    release.helm("rollback", "autoglm", "1", *WAIT)
    assert release.ask(screenshot())[1]["x-autoglm-revision"] == second
    assert release.names("raycluster") == [cluster]
    release.wait(release.is_ready, "quickstart is Ready")
    assert release.ready_since() == since, "Ready was taken back although every request was answered"
    watch.stage("helm rollback, and an answer")

    granted = rights.granted(filter(None, yaml.safe_load_all(release.helm("get", "manifest", "autoglm"))))
    release.api.kubectl("delete", "agd", "quickstart", "-n", USERS, "--timeout=300s", timeout=360)
    release.wait(lambda: not release.names("rayservice,raycluster,pod,service,networkpolicy,pdb"), "Ray is gone", 300)
    release.api.kubectl("delete", "ags", SITE, "--timeout=60s")
    watch.stage("deployment and site are deleted")

    if isinstance(release.api, ControlPlane):
        events = release.api.audit(f"system:serviceaccount:{SYSTEM}:autoglm-operator")
        assert rights.refused(events) == set()
        unused = granted - rights.used(events)
        print("rights of the operator that were not used:")
        print(*(f"  {right}: {NOT_SEEN.get(right)}" for right in sorted(unused)), sep="\n")
        assert unused <= NOT_SEEN.keys()

    release.helm("uninstall", "autoglm", *WAIT)
    release.wait(lambda: release.everything() - before == KEPT, "nothing is left but what the chart keeps", 120)
    watch.stage("helm uninstall: nothing is left but the definitions, which the chart keeps")
