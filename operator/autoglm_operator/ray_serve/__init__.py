"""The Serve REST API of Ray: one client for each cluster, and the pure handling of its document."""

from autoglm_operator.ray_serve.client import ClusterView, Credentials, RayAddress, RayServeClient
from autoglm_operator.ray_serve.document import SiteFailure

__all__ = ["ClusterView", "Credentials", "RayAddress", "RayServeClient", "SiteFailure"]
