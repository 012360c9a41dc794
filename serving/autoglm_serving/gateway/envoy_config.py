"""Envoy's bootstrap configuration as JSON: one listener, the picker as external processor, endpoints from the picker.

Envoy carries the bytes and holds the limits; the picker decides. Nothing here changes while Envoy runs: endpoints come by
EDS, and everything that depends on a request is set by the picker in headers.
"""

import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoglm_serving import headers
from autoglm_serving.gateway.envoy_replies import local_replies

Json = dict[str, Any]

ENDPOINTS = "endpoints"
"""Name of the one upstream cluster, and of its EDS resource."""

BUFFER_BYTES = 24 * 1024 * 1024
"""A request body is held whole for the picker and for retries. Larger ones are refused with 413."""

MAX_CONNECTIONS = 2048
MAX_REQUESTS = 1024
MAX_HEAP_BYTES = 2 * 1024 * 1024 * 1024
HEADERS_SECONDS = 10
BODY_SECONDS = 60
UNREAD_SECONDS = 60
"""So long may a client take nothing of what waits for it."""
PICKER_SECONDS = 10
IDLE_STREAM_SECONDS = 3600
"""Above the longest `timeout` of a route: the time of a request is bounded by its route, not here."""

OBSERVER = ("x-autoglm-role", "observer")
"""Metadata of the streams that show the picker the answers to requests that were copied to a canary."""

_TYPE = "type.googleapis.com/"
_HTTP = _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LB = _TYPE + "envoy.extensions.load_balancing_policies."


@dataclass(frozen=True)
class EnvoySettings:
    """What differs between two Envoy processes."""

    host: str
    port: int
    picker_socket: Path
    admin_socket: Path
    body_seconds: float = BODY_SECONDS


def bootstrap(settings: EnvoySettings) -> Json:
    """The whole configuration."""
    return {
        "node": {"id": "gateway", "cluster": "autoglm"},
        "admin": {"address": {"pipe": {"path": str(settings.admin_socket), "mode": 0o600}}},
        "static_resources": {
            "listeners": [_listener(settings)],
            "clusters": [_picker_cluster(settings), _endpoints_cluster()],
        },
        "overload_manager": _overload_manager(),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def _overload_manager() -> Json:
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {
                    "@type": _TYPE + "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": MAX_HEAP_BYTES,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": _TYPE
                    + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MAX_CONNECTIONS,
                },
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.9}}],
            }
        ],
    }


def _listener(settings: EnvoySettings) -> Json:
    return {
        "name": "openai",
        "address": _socket(settings.host, settings.port),
        # Two gateways on one port must collide, not share the requests.
        "enable_reuse_port": False,
        "socket_options": _socket_options(),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(settings),
                    }
                ]
            }
        ],
    }


def _socket_options() -> list[Json]:
    """The kernel gives up connections whose other side takes nothing, which Envoy's own times do not tell from idle ones.

    Accepted connections inherit it. It counts only while something waits to be taken, so answers may take their time.
    """
    if sys.platform != "linux":
        return []
    return [
        {
            "description": "unread answers",
            "level": socket.IPPROTO_TCP,
            "name": socket.TCP_USER_TIMEOUT,
            "int_value": UNREAD_SECONDS * 1000,
            "state": "STATE_PREBIND",
        }
    ]


def _connection_manager(settings: EnvoySettings) -> Json:
    return {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "openai",
        "codec_type": "AUTO",
        "server_header_transformation": "PASS_THROUGH",
        # Every client is a stranger: x-envoy-* headers from outside are dropped, and the request id is always ours.
        "use_remote_address": True,
        "internal_address_config": {},
        "skip_xff_append": True,
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 1048576,
            "initial_connection_window_size": 4194304,
        },
        "request_headers_timeout": f"{HEADERS_SECONDS}s",
        "request_timeout": f"{settings.body_seconds}s",
        "stream_idle_timeout": f"{IDLE_STREAM_SECONDS}s",
        # Of a whole answer whose HTTP/2 window stays shut; else the time of idle streams counts.
        "stream_flush_timeout": f"{UNREAD_SECONDS}s",
        "drain_timeout": "5s",
        "access_log": [_access_log()],
        "local_reply_config": local_replies(BUFFER_BYTES),
        "http_filters": [
            _external_processor(),
            _observer(),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
        "route_config": {
            "name": "openai",
            "virtual_hosts": [
                {
                    "name": "openai",
                    "domains": ["*"],
                    "include_attempt_count_in_response": True,
                    "routes": [{"match": {"prefix": "/"}, "route": _route()}],
                }
            ],
        },
    }


def _route() -> Json:
    """Time and number of attempts are set for each request by the picker (x-envoy-* headers)."""
    return {
        "cluster": ENDPOINTS,
        "timeout": f"{IDLE_STREAM_SECONDS}s",
        "retry_policy": {
            # A generation may be repeated as long as no byte of an answer was passed on, and Envoy never retries after that.
            "retry_on": "connect-failure,refused-stream,reset,gateway-error,retriable-headers",
            # Every answer of the application names its revision. One without it comes from a proxy whose application is
            # gone or whose replica died.
            "retriable_headers": [{"name": headers.REVISION, "present_match": False}],
            "num_retries": 0,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        },
    }


def _external_processor() -> Json:
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
            "failure_mode_allow": False,
            "status_on_error": {"code": 503},
            "message_timeout": f"{PICKER_SECONDS}s",
            # Trailers are asked for only so that the stream to the picker stays open until the answer ends.
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "BUFFERED",
                "request_trailer_mode": "SKIP",
                "response_header_mode": "SEND",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SEND",
            },
            "response_attributes": ["upstream.address", "response.code_details"],
            "mutation_rules": {"allow_all_routing": True, "allow_envoy": True},
        },
    }


def _observer() -> Json:
    """Shows the picker the answers to requests that it marked, and waits for nothing. Other requests do not meet it."""
    composite = _TYPE + "envoy.extensions.filters.http.composite.v3."
    header = {
        "name": "header",
        "typed_config": {
            "@type": _TYPE + "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": headers.OBSERVE,
        },
    }
    action = {"@type": composite + "ExecuteFilterAction", "typed_config": _observing_processor()}
    marked = {"1": {"action": {"name": "observe", "typed_config": action}}}
    return {
        "name": "observer",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": "composite", "typed_config": {"@type": composite + "Composite"}},
            "xds_matcher": {"matcher_tree": {"input": header, "exact_match_map": {"map": marked}}},
        },
    }


def _observing_processor() -> Json:
    name, value = OBSERVER
    return {
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": "picker"},
                "initial_metadata": [{"key": name, "value": value}],
            },
            "observability_mode": True,
            "failure_mode_allow": True,
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "NONE",
                "request_trailer_mode": "SKIP",
                "response_header_mode": "SEND",
                "response_body_mode": "STREAMED",
                "response_trailer_mode": "SKIP",
            },
        },
    }


def _picker_cluster(settings: EnvoySettings) -> Json:
    return {
        "name": "picker",
        "type": "STATIC",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "typed_extension_protocol_options": {
            _HTTP.removeprefix(_TYPE): {
                "@type": _HTTP,
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "initial_stream_window_size": 4 * 1024 * 1024,
                        "initial_connection_window_size": BUFFER_BYTES,
                    }
                },
            }
        },
        "circuit_breakers": {"thresholds": [{"max_requests": 2 * MAX_REQUESTS, "max_connections": MAX_REQUESTS}]},
        "load_assignment": {
            "cluster_name": "picker",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(settings.picker_socket)}}}}]}
            ],
        },
    }


def _endpoints_cluster() -> Json:
    return {
        "name": ENDPOINTS,
        "type": "EDS",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "initial_fetch_timeout": "5s",
                "api_config_source": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "picker"}}],
                },
            }
        },
        "load_balancing_policy": {"policies": [{"typed_extension_config": _override_host()}]},
        "typed_extension_protocol_options": {
            _HTTP.removeprefix(_TYPE): {
                "@type": _HTTP,
                # Shorter than the servers' keep-alive (5 s), so that a request seldom meets a closing connection.
                "common_http_protocol_options": {"idle_timeout": "4s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": MAX_REQUESTS,
                    "max_pending_requests": MAX_REQUESTS,
                    "max_requests": MAX_REQUESTS,
                    "max_retries": MAX_REQUESTS,
                }
            ]
        },
    }


def _override_host() -> Json:
    """The picker's list decides, and nothing else: the fallback below finds no host on purpose, so the answer is 503."""
    return {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": {
            "@type": _LB + "override_host.v3.OverrideHost",
            "override_host_sources": [{"header": headers.DESTINATION}],
            "fallback_policy": {
                "policies": [
                    {
                        "typed_extension_config": {
                            "name": "envoy.load_balancing_policies.subset",
                            "typed_config": {
                                "@type": _LB + "subset.v3.Subset",
                                "fallback_policy": "NO_FALLBACK",
                                "subset_selectors": [{"keys": ["never"]}],
                                "subset_lb_policy": {
                                    "policies": [
                                        {
                                            "typed_extension_config": {
                                                "name": "envoy.load_balancing_policies.round_robin",
                                                "typed_config": {"@type": _LB + "round_robin.v3.RoundRobin"},
                                            }
                                        }
                                    ]
                                },
                            },
                        }
                    }
                ]
            },
        },
    }


def _access_log() -> Json:
    """One JSON line for each request, without any content: no body, no query, no header of the client."""
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "requestId": f"%REQ({headers.REQUEST_ID})%",
                    "method": "%REQ(:METHOD)%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "site": f"%RESP({headers.SITE})%",
                    "upstream": "%UPSTREAM_HOST%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "bytesIn": "%BYTES_RECEIVED%",
                    "bytesOut": "%BYTES_SENT%",
                    "milliseconds": "%DURATION%",
                }
            },
        },
    }


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
