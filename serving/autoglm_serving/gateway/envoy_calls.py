"""The two calls that Envoy makes to the gateway, as gRPC knows them: names are Envoy's, and each is one stream of messages."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from autoglm_serving.gateway import envoy_messages_pb2 as envoy

Stream = AsyncIterator


def processor(
    answer: Callable[[Stream[envoy.ProcessingRequest], Any], Stream[envoy.ProcessingResponse]],
) -> "grpc.GenericRpcHandler[Any, Any]":
    """External processing: one stream for each HTTP request."""
    call = grpc.stream_stream_rpc_method_handler(
        answer, envoy.ProcessingRequest.FromString, envoy.ProcessingResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": call})


def discovery(
    answer: Callable[[Stream[envoy.DiscoveryRequest], Any], Stream[envoy.DiscoveryResponse]],
) -> "grpc.GenericRpcHandler[Any, Any]":
    """Endpoint discovery: one stream for each Envoy."""
    call = grpc.stream_stream_rpc_method_handler(
        answer, envoy.DiscoveryRequest.FromString, envoy.DiscoveryResponse.SerializeToString
    )
    service = "envoy.service.endpoint.v3.EndpointDiscoveryService"
    return grpc.method_handlers_generic_handler(service, {"StreamEndpoints": call})
