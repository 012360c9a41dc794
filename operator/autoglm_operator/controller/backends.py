"""Makes the back end of a site. Secrets come through the store, when they are needed and not before."""

from dataclasses import dataclass

from autoglm_operator.api import AutoGLMSite, KubeRayBackend, RayBackend, SecretReference
from autoglm_operator.backend import Backend, SiteFailure
from autoglm_operator.controller.parts import Parts
from autoglm_operator.kube import KubeApi, KubeRaySite
from autoglm_operator.ray_serve import Credentials, RayAddress, RayServeClient
from autoglm_operator.store import StoreError


@dataclass(frozen=True)
class Backends:
    """The back ends of all sites, from their specs."""

    parts: Parts

    def make(self, site: AutoGLMSite) -> Backend:
        """The back end of this site. Opens nothing yet."""
        backend = site.spec.backend
        if backend.kube_ray is not None:
            return self._kuberay(site.metadata.name, backend.kube_ray)
        assert backend.ray is not None, "the API asks for one of both"
        return self._ray(site.metadata.name, backend.ray)

    def _ray(self, name: str, ray: RayBackend) -> Backend:
        address = RayAddress.of(ray.address, ray.serve_addresses, ray.allow_open_cluster)
        token, ca = ray.token_secret, ray.tls.ca_secret if ray.tls else None

        async def credentials() -> Credentials:
            return Credentials(await self._secret(token), await self._secret(ca))

        def on_call(method: str, outcome: str, seconds: float) -> None:
            self.parts.metrics.ray_calls.labels(name, method, outcome).observe(seconds)

        return RayServeClient(address, credentials, self.parts.check_leading, self.parts.clock, on_call)

    def _kuberay(self, name: str, kube: KubeRayBackend) -> Backend:
        reference = kube.kubeconfig_secret

        async def connect() -> KubeApi:
            if self.parts.connect is None:
                raise SiteFailure("KubeRayMissing", "there is no Kubernetes here: run the operator in a cluster")
            return self.parts.connect(await self._secret(reference))

        return KubeRaySite(name, kube, connect, self.parts.clock, own=reference is not None)

    async def _secret(self, reference: SecretReference | None) -> str | None:
        if reference is None:
            return None
        where = f"key {reference.key} of Secret {reference.namespace}/{reference.name}"
        try:
            value = await self.parts.store.secret(reference.namespace, reference.name, reference.key)
        except StoreError as error:
            raise SiteFailure("SecretMissing", f"{where} cannot be read: {error}") from None
        if not value:
            raise SiteFailure("SecretMissing", f"{where} does not exist or is empty")
        return value
