"""Serve's request router for encoders: the same image goes to the same encoder, which may have its features still."""

from typing import Any

from ray.serve._private.request_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import LocalityMixin, MultiplexMixin, PendingRequest, RequestRouter, RunningReplica

from autoglm_serving.app.encoder_calls import WantedFeatures
from autoglm_serving.encoders import order


class EncoderRouter(LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]  # Ray's classes have no types
    """Chooses by the image's name; an encoder that is full passes it on to the next one in the image's order."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Encoders to try, one after the other."""
        name = _name(pending_request)
        if name is not None and pending_request is not None and candidate_replicas:
            pending_request.routing_context.should_backoff = True
            by_name = {replica.replica_id.to_full_id_str(): replica for replica in candidate_replicas}
            return [[by_name[each]] for each in order(name, list(by_name))]
        fallback: list[list[RunningReplica]] = await PowerOfTwoChoicesRequestRouter.choose_replicas(
            self, candidate_replicas, pending_request
        )
        return fallback


def _name(pending: PendingRequest | None) -> str | None:
    args: tuple[Any, ...] = pending.args if pending is not None else ()
    return args[0].key if args and isinstance(args[0], WantedFeatures) else None
