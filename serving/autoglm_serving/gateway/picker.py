"""The endpoint picker: Envoy's external processor, one gRPC stream for each HTTP request."""

from collections.abc import AsyncIterator

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc

from autoglm_serving.gateway.dispatch import Context
from autoglm_serving.gateway.envoy_config import OBSERVER
from autoglm_serving.gateway.exchange import Exchange


class Picker(ext_proc_grpc.ExternalProcessorServicer):  # type: ignore[misc]
    """Runs one Exchange for each stream. The stream's end, in whatever way, is the point of release.

    A stream of an observer shows the answer to a request that was copied to a canary; nobody waits for a reply to it.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def Process(  # noqa: N802 - the name is Envoy's
        self,
        messages: AsyncIterator[ext_proc.ProcessingRequest],
        call: "grpc.aio.ServicerContext[ext_proc.ProcessingRequest, ext_proc.ProcessingResponse]",
    ) -> AsyncIterator[ext_proc.ProcessingResponse]:
        if OBSERVER in tuple(call.invocation_metadata() or ()):
            await self._context.mirror.observe(messages)
            return
        exchange = Exchange(self._context)
        try:
            async for message in messages:
                yield exchange.answer(message)
        finally:
            exchange.close()
