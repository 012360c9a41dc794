"""Torch modules for multi-resolution vision: fusion of tiles and scales, alignment, attention, positions, crops.

Each is small, works on a `glm4v` vision tower without changing its weights, and can be put on AutoGLM-Tiny for an ablation
by its name (`variants.build_variant`). Shapes: B batch, T tiles or scales, N tokens of one tile, C channels; a map is
[B, C, H, W]. Sources: the articles on Open-AutoGLM's multi-resolution vision ("the multi-resolution article" is the one on
adaptive tiles and fusion, "the tiling article" the one on grids, masks and dynamic normalisation), and the papers named.
"""
