"""The Serve application: an OpenAI ingress in front of engine replicas. Import path: `autoglm_serving.app:build`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["build"]


def build(args: dict[str, Any]) -> "Application":
    """The application for `args` (AppConfig). Loads Ray only when called."""
    from autoglm_serving.app.application import build_application

    return build_application(args)
