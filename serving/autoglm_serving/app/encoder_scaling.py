"""How Serve scales encoders: by the image tokens that arrive at them. Serve's controller calls this every now and then."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from autoglm_serving.config import EncoderConfig
from autoglm_serving.encoders import RATE, encoders_for

POLICY = "autoglm_serving.app.encoder_scaling:ByImageTokens"
UPSCALE_DELAY_S = 10.0
DOWNSCALE_DELAY_S = 120.0
"""An encoder takes tens of seconds to start, so one that was needed is kept for a while."""


class ByImageTokens:
    """Serve's autoscaling policy of the deployment `Encoder`. Serve keeps to the bounds and the delays."""

    def __init__(self, tokens_per_s: int) -> None:
        self._tokens_per_s = tokens_per_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """How many encoders there shall be, by what they reported last. Before they report, as many as there are.

        Not by Serve's means over half a minute: a rate is a mean already, and when encoders are added, images move from one
        that still counts them in its mean to one that counts them too.
        """
        reported: Mapping[Any, Sequence[Any]] = (context.raw_metrics or {}).get(RATE, {})
        rates = [figures[-1].value for figures in reported.values() if figures]
        if not rates:
            return context.target_num_replicas, {}
        return encoders_for(rates, self._tokens_per_s), {}


def scaling(encoder: EncoderConfig) -> dict[str, Any]:
    """The options of the Serve deployment that say how many replicas it has."""
    if encoder.min_replicas >= encoder.max_replicas:
        return {"num_replicas": encoder.min_replicas}
    policy = AutoscalingPolicy(policy_function=POLICY, policy_kwargs={"tokens_per_s": encoder.tokens_per_s})
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=encoder.min_replicas,
            max_replicas=encoder.max_replicas,
            upscale_delay_s=UPSCALE_DELAY_S,
            downscale_delay_s=DOWNSCALE_DELAY_S,
            policy=policy,
        )
    }
