"""Attention blocks on maps, and maps of where attention goes."""

from autoglm_serving.vision.modules.attention.blocks import Cbam, ChannelAttention, ReceptiveField, SpatialAttention

__all__ = ["Cbam", "ChannelAttention", "ReceptiveField", "SpatialAttention"]
