"""The Kubernetes API server: `KubeStore` (manifests, status, events, Secrets by name) and `KubeLease`.

Foreign errors become `StoreError` in here and nowhere else.
"""

from autoglm_operator.kube.api import (
    Call,
    Forbidden,
    KubeApi,
    Patience,
    bearer_token,
    load_configuration,
    remote_configuration,
)
from autoglm_operator.kube.kuberay import KubeRaySite
from autoglm_operator.kube.lease import KubeLease, account_of
from autoglm_operator.kube.store import PLURALS, KubeStore, kinds_are_served

__all__ = [
    "PLURALS",
    "Call",
    "Forbidden",
    "KubeApi",
    "KubeLease",
    "KubeRaySite",
    "KubeStore",
    "Patience",
    "account_of",
    "bearer_token",
    "kinds_are_served",
    "load_configuration",
    "remote_configuration",
]
