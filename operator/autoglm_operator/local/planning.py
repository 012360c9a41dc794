"""What would be done for a manifest at sites with nothing on them yet. Pure: the same core as the controller's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite, parse_site
from autoglm_operator.local.manifest import LOCAL_SITE, Manifest
from autoglm_operator.reconcile import reconcile
from autoglm_operator.state import ApplyApplication, DeleteApplication, GatewayView, Observed, Plan, SiteView
from autoglm_operator.store import SITE


@dataclass(frozen=True)
class PlannedDeployment:
    """A deployment and the first plan for it."""

    name: str
    plan: Plan


def plans(manifest: Manifest, now: datetime) -> tuple[PlannedDeployment, ...]:
    """The first plan for each deployment."""
    deployments = tuple(map(_with_uid, manifest.deployments()))
    observed = Observed(
        sites=tuple(SiteView(site, applications=(), observed_at=now) for site in _sites(manifest)),
        # A gateway that has not reported yet, so that no condition says that there is none.
        gateways=(GatewayView("gateway"),),
        deployments=deployments,
    )
    return tuple(PlannedDeployment(_name(each), reconcile(each, observed, now)) for each in deployments)


def as_json(found: Sequence[PlannedDeployment]) -> list[dict[str, Any]]:
    """The plans as data."""
    return [
        {
            "deployment": each.name,
            "revision": each.plan.status.revision,
            "put": [
                {"site": change.site, "application": _plain(change.application)}
                for change in each.plan.applications
                if isinstance(change, ApplyApplication)
            ],
            "remove": [
                {"site": change.site, "application": change.name}
                for change in each.plan.applications
                if isinstance(change, DeleteApplication)
            ],
            "conditions": each.plan.status.model_dump(mode="json", by_alias=True)["conditions"],
        }
        for each in found
    ]


def as_text(found: Sequence[PlannedDeployment]) -> str:
    """The plans for people."""
    return "\n\n".join("\n".join(_lines(entry)) for entry in as_json(found))


def _lines(entry: dict[str, Any]) -> list[str]:
    lines = [f"{entry['deployment']} (revision {entry['revision']})"]
    for change in entry["put"]:
        lines.append(f"  put application {change['application']['name']} on site {change['site']}:")
        lines += ["    " + line for line in yaml.safe_dump(change["application"], sort_keys=False).splitlines()]
    lines += [f"  remove application {change['application']} from site {change['site']}" for change in entry["remove"]]
    if not entry["put"]:
        lines += [
            f"  {each['type']} is {each['status']}: {each['reason']}: {each['message']}" for each in entry["conditions"]
        ]
    return lines


def _plain(application: Any) -> dict[str, Any]:
    return {key: value for key, value in application.items() if key != "args"} | {"args": dict(application["args"])}


def _sites(manifest: Manifest) -> tuple[AutoGLMSite, ...]:
    if manifest.has_sites:
        return tuple(parse_site(raw) for key, raw in manifest.objects.items() if key.kind == SITE)
    ray = {"address": "http://127.0.0.1:8265", "serveAddresses": ["http://127.0.0.1:8000"], "allowOpenCluster": True}
    raw = {
        "apiVersion": "serving.autoglm.dev/v1alpha1",
        "kind": SITE,
        "metadata": {"name": LOCAL_SITE},
        "spec": {"tier": "cloud", "backend": {"ray": ray}},
    }
    return (parse_site(raw),)


def _with_uid(deployment: AutoGLMDeployment) -> AutoGLMDeployment:
    """The store gives the real one; without any, two deployments would be taken for the same."""
    metadata = deployment.metadata.model_copy(update={"uid": f"(uid of {_name(deployment)})"})
    return deployment.model_copy(update={"metadata": metadata})


def _name(deployment: AutoGLMDeployment) -> str:
    return f"{deployment.metadata.namespace}/{deployment.metadata.name}"
