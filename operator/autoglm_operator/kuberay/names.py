"""Names, labels and addresses of what a deployment has at a site with the back end kubeRay."""

import hashlib
from collections.abc import Mapping

from autoglm_operator.api import AutoGLMDeployment, AutoGLMSite

GROUP = "serving.autoglm.dev"
SITE = f"{GROUP}/site"
RAY_SERVICE = f"{GROUP}/ray-service"
"""Label on every pod; the children select by it."""
DEPLOYMENT = f"{GROUP}/deployment"
DEPLOYMENT_UID = f"{GROUP}/deployment-uid"
CLUSTER_HASH = f"{GROUP}/cluster-hash"
"""Annotation: what the Ray cluster was made from. Also on the pods, so that KubeRay sees a new cluster exactly when we do."""
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "autoglm-operator"

WORKERS = "engine"
"""The one worker group. Each of its pods holds one replica with all its accelerators."""
ENGINE = "Engine"
"""The Serve deployment whose replicas run the model."""
SERVE_PORT = 8000
DASHBOARD_PORT = 8265

_UNNAMED = "RayService "
_LONGEST = 47
"""KubeRay's bound on the name of a RayService: it appends to it."""


def ray_service(application: str, site: str) -> str:
    """Name of the RayService of a Serve application at a site: readable, unique, and a DNS-1035 label."""
    digest = hashlib.sha256(f"{application}@{site}".encode()).hexdigest()[:8]
    name = application.partition(".")[2].replace(".", "-")
    head = name if name[:1].isalpha() else f"d{name}"
    return f"{head[: _LONGEST - 9].rstrip('-')}-{digest}"


def is_application(name: str) -> bool:
    """Whether it can be the name of an application of ours: a namespace and what is in it."""
    namespace, _, rest = name.partition(".")
    return bool(namespace and rest) and of_unnamed(name) is None


def unnamed(ray_service: str) -> str:
    """What stands for the name of an application whose RayService does not tell it."""
    return f"{_UNNAMED}{ray_service}"


def of_unnamed(application: str) -> str | None:
    """The RayService behind such a name; None for the name of an application."""
    return application.removeprefix(_UNNAMED) if application.startswith(_UNNAMED) else None


def labels(deployment: AutoGLMDeployment, application: str, site: str) -> dict[str, str]:
    """Labels of every object that belongs to an application of a deployment at a site."""
    return {
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/part-of": "autoglm",
        DEPLOYMENT: deployment.metadata.name,
        RAY_SERVICE: ray_service(application, site),
        SITE: site,
    }


def is_ours(labels: Mapping[str, str], annotations: Mapping[str, str], site: str) -> bool:
    """Whether this operator made an object for this site. One of both marks is enough: a person may have removed the other."""
    return labels.get(SITE) == site or (SITE not in labels and annotations.get(DEPLOYMENT_UID) is not None)


def serve_addresses(application: str, site: AutoGLMSite) -> tuple[str, ...]:
    """Where gateways reach Ray Serve for an application; nothing at a site without the back end kubeRay."""
    kube = site.spec.backend.kube_ray
    if kube is None:
        return ()
    name = ray_service(application, site.metadata.name)
    return kube.serve_addresses or (f"http://{name}-serve-svc.{kube.namespace}.svc:{SERVE_PORT}",)


NODE_ENVIRONMENT = {
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "no_grpc_proxy": "0.0.0.0/0,::/0",
}
"""Of every Ray node, here and on a machine of one's own: what passes between Serve's proxy and the ingresses goes by gRPC, in
one event loop and past any web proxy, which costs less than Ray's own way. Without it all works as well."""
