"""The Serve REST API of Ray: one client for each cluster, and the pure handling of its document."""

from autoglm_operator.backend import ClusterView, SiteFailure
from autoglm_operator.ray_serve.client import Credentials, RayAddress, RayServeClient

__all__ = ["ClusterView", "Credentials", "RayAddress", "RayServeClient", "SiteFailure"]
