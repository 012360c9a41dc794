"""Conditions and the closed list of their reasons."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field

from autoglm_operator.api.base import Reported

DeploymentConditionType = Literal[
    "Ready", "SitesReady", "GatewayReady", "RolledOut", "ScalingActive", "Progressing", "Degraded"
]
SiteConditionType = Literal["Connected"]
ConditionStatus = Literal["True", "False", "Unknown"]

Reason = Literal[
    "Answering",
    "UpToDate",
    "Quorum",
    "Healthy",
    "Connected",
    "Admitted",
    "Suspended",
    "ScaledToZero",
    "Deploying",
    "RollingOut",
    "RolloutPaused",
    "RolloutBlocked",
    "RolledBack",
    "Scaling",
    "FollowingLoad",
    "AtMaximum",
    "LoadUnknown",
    "Probing",
    "Deleting",
    "DeletionDeadlineExceeded",
    "InvalidSpec",
    "NoSites",
    "TooManySites",
    "SiteNotFound",
    "SiteInvalid",
    "DuplicateCluster",
    "InsufficientResources",
    "ClusterChangeRefused",
    "EncodersUnsupported",
    "ModelNameTaken",
    "NameTaken",
    "DeployFailed",
    "ModelNotFound",
    "Unhealthy",
    "ReplicasMissing",
    "ApplicationMissing",
    "ProbeFailed",
    "NotObserved",
    "Stale",
    "Unreachable",
    "Unauthorized",
    "OpenCluster",
    "TlsFailed",
    "SecretMissing",
    "InvalidAnswer",
    "KubeRayMissing",
    "GatewayUnreachable",
    "GatewayMissing",
    "TableRefused",
    "TablePending",
    "InternalError",
]

REASONS: Mapping[Reason, str] = {
    "Answering": "Every part that the condition stands on is in order: real requests are answered.",
    "UpToDate": "Every selected site runs the wanted revision with the wanted replicas.",
    "Quorum": "As many sites as `spec.sites.quorum` asks for are in order; Degraded tells of the others.",
    "Healthy": "Nothing is wrong.",
    "Connected": "The site's Ray cluster answered the operator.",
    "Admitted": "The gateway got an answer of the wanted revision from a real request and sends traffic.",
    "Suspended": "`spec.suspend` is true: nothing is served until it is false.",
    "ScaledToZero": "There are no replicas: `spec.replicas` is 0, or `spec.scaling.min` is 0 and nobody asked for a while; then"
    " the next request wakes the model.",
    "Deploying": "Ray Serve is starting the application.",
    "RollingOut": "A new revision is replacing the old one.",
    "RolloutPaused": "The rollout is paused by `spec.rollout.paused` or by annotation; both revisions keep what they have.",
    "RolloutBlocked": "The new revision cannot be rolled out here. The message says what is in the way.",
    "RolledBack": "The revision that the spec describes was taken back, and the one before it serves. The message says why.",
    "Scaling": "Replicas are being added or removed.",
    "FollowingLoad": "All gateways tell the load, and the replicas follow it.",
    "AtMaximum": "The load asks for more replicas than `spec.scaling.max`. Raise it, or live with longer queues.",
    "LoadUnknown": "Not every gateway tells the load: replicas are added by what is known, and none are taken away.",
    "Probing": "The gateway has not yet got an answer of the wanted revision.",
    "Deleting": "The resource is being deleted and its applications are being removed.",
    "DeletionDeadlineExceeded": "`spec.deletionDeadline` passed while a site could not be cleaned; it is cleaned on return.",
    "InvalidSpec": "The stored spec cannot be used. The message names each field and the remedy.",
    "NoSites": "No site matches `spec.sites`. Create an AutoGLMSite or change the selection.",
    "TooManySites": "`spec.sites` matches more sites than one deployment uses; the newest are left out. Narrow it, or serve"
    " them by a second deployment.",
    "SiteNotFound": "`spec.sites.names` names a site that does not exist. Create it or remove the name.",
    "SiteInvalid": "A selected site has a spec that cannot be used. See the site's own status.",
    "DuplicateCluster": "An older AutoGLMSite already stands for this Ray cluster. Remove one of them.",
    "InsufficientResources": "The site does not have what the replicas need. Lower the need or add machines.",
    "ClusterChangeRefused": "The change needs other pods, and `spec.rollout` has no room for it. The old ones go on; raise"
    " `maxSurge` or `maxUnavailable`, or take the change back.",
    "EncodersUnsupported": "The site's back end has no place for `spec.encoder`. Remove it, or choose other sites.",
    "ModelNameTaken": "An older deployment already serves this model name. Choose another `spec.model.name`.",
    "NameTaken": "A Serve application of this name belongs to somebody else. It is left alone; rename the deployment.",
    "DeployFailed": "Ray Serve could not start the application. The message has Ray's words.",
    "ModelNotFound": "There is no model at `spec.model.uri`, or the site cannot reach it. The message has Ray's words.",
    "Unhealthy": "The application runs and Ray Serve finds it unhealthy. The message has Ray's words.",
    "ReplicasMissing": "Fewer replicas are ready than wanted.",
    "ApplicationMissing": "The application is not on the site yet, or somebody removed it; it is put there again.",
    "ProbeFailed": "The gateway's real request failed. The message has the error.",
    "NotObserved": "The operator has not looked yet, so nothing is known.",
    "Stale": "The last observation is too old to be called true. The message has its age.",
    "Unreachable": "The Ray cluster does not answer. The message has the error; it is tried again with growing pauses.",
    "Unauthorized": "The Ray cluster refused the token. Check the Secret that the site names.",
    "OpenCluster": "The Ray cluster answers without a token, so anyone could run code on it. Set RAY_AUTH_MODE=token there.",
    "TlsFailed": "The TLS connection to the Ray cluster failed. Check the certificate and the site's CA Secret.",
    "SecretMissing": "The Secret or key that the site names does not exist or cannot be read.",
    "InvalidAnswer": "The Ray cluster answered with something that is not the Serve REST API.",
    "KubeRayMissing": "The Kubernetes cluster of the site does not know RayServices. Install KubeRay there.",
    "GatewayUnreachable": "No gateway answers the operator. Traffic goes on by the last table.",
    "GatewayMissing": "The operator was started without a gateway.",
    "TableRefused": "The gateway refused the routing table. The message has its words.",
    "TablePending": "The gateway has not taken the present routing table yet.",
    "InternalError": "The operator failed on this resource. The message has the error; it is tried again.",
}

assert set(REASONS) == set(get_args(Reason)), "every reason has a sentence"


class _Condition(Reported):
    """One fact about the resource, and since when."""

    type: str
    """What the fact is about."""
    status: ConditionStatus
    """Whether it holds. Unknown means that nobody could look."""
    reason: Reason
    """Why, as one word from a closed list."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, in a sentence for people."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that the fact was found for."""
    last_transition_time: AwareDatetime
    """When the status last changed."""


class DeploymentCondition(_Condition):
    """One fact about a deployment, and since when."""

    type: DeploymentConditionType
    """What the fact is about."""


class SiteCondition(_Condition):
    """One fact about a site, and since when."""

    type: SiteConditionType
    """What the fact is about."""
