"""Log lines of the application: who, how long, how many tokens. Never a prompt, an image, an answer or an error's text.

Serve writes its logger's records as JSON, so the figures go into the record's fields.
"""

import logging
import traceback
from collections.abc import Mapping

from autoglm_serving.engines.interface import Delta

_log = logging.getLogger("ray.serve.autoglm")


def log_request(request_id: str, status: int, code: str | None, seconds: float, last: Delta | None) -> None:
    """One line for each request, when its answer has ended."""
    fields: dict[str, object] = {
        "autoglm_request": request_id,
        "status": status,
        "code": code,
        "seconds": round(seconds, 3),
    }
    if last is not None:
        fields |= {
            "prompt_tokens": last.prompt_tokens,
            "completion_tokens": last.completion_tokens,
            "image_tokens": last.image_tokens,
            "finish_reason": last.finish_reason,
        }
    _log.info("request", extra=fields)


def log_ready(seconds: float, parts: Mapping[str, float]) -> None:
    """A replica can answer from now on; what its constructor took, and each part of that."""
    told = {f"{part}_s": round(took, 3) for part, took in parts.items()}
    _log.info("replica ready", extra={"seconds": round(seconds, 3), **told})


def log_lost(error: BaseException) -> None:
    """A replica was lost under a request."""
    _log.warning("replica lost", extra={"error_type": type(error).__name__})


def log_encoded(tokens: int, seconds: float) -> None:
    """An encoder has computed the features of an image."""
    _log.info("image encoded", extra={"image_tokens": tokens, "seconds": round(seconds, 3)})


def log_no_features(why: str) -> None:
    """Encoders did not give features, so this replica computes them itself for a while."""
    _log.warning("no features from encoders", extra={"why": why})


def log_engine_dead(error: BaseException) -> None:
    """The engine of this process is dead, and the process ends."""
    _log.error("engine dead: this replica ends", extra={"error_type": type(error).__name__})


def log_unexpected(error: BaseException) -> None:
    """A defect: the type and the place. The error's own text stays out, because it may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-4:]))
    _log.error("unexpected error", extra={"error_type": type(error).__name__, "where": where})
