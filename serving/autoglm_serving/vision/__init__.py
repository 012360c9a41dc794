"""Multi-resolution: sizes, tiles, costs and regions as decisions (no pixels, no torch), and what carries them out."""
