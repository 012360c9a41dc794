"""Torch modules for multi-resolution vision: fusion of tiles and scales, alignment, attention, positions, crops.

Each is small, works on a `glm4v` vision tower without changing its weights, and can be put on AutoGLM-Tiny for an ablation
by its name (`variants.build_variant`). Shapes: B batch, T tiles or scales, N tokens of one tile, C channels; a map is
[B, C, H, W]. Sources: the papers named, and the four articles on Open-AutoGLM's vision, called "hidden", "multi-scale",
"adaptation" and "compression" here as in docs/vision.md. Their figures are theirs, not ours.
"""
