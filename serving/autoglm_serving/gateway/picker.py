"""The endpoint picker: Envoy's external processor, one gRPC stream for each HTTP request."""

from collections.abc import AsyncIterator

import grpc

from autoglm_serving.gateway import envoy_messages_pb2 as envoy
from autoglm_serving.gateway.dispatch import Context
from autoglm_serving.gateway.envoy_config import OBSERVER
from autoglm_serving.gateway.exchange import Exchange


class Picker:
    """Runs one Exchange for each stream. The stream's end, in whatever way, is the point of release.

    A stream of an observer shows the answer to a request that was copied to a canary; nobody waits for a reply to it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def process(
        self,
        messages: AsyncIterator[envoy.ProcessingRequest],
        call: "grpc.aio.ServicerContext[envoy.ProcessingRequest, envoy.ProcessingResponse]",
    ) -> AsyncIterator[envoy.ProcessingResponse]:
        if OBSERVER in tuple(call.invocation_metadata() or ()):
            await self._context.mirror.observe(messages)
            return
        exchange = Exchange(self._context)
        try:
            async for message in messages:
                yield exchange.answer(message)
        finally:
            exchange.close()
