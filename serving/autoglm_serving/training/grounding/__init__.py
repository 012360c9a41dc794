"""Grounding: beside a tower that reads already a language model learns anew to find what is named, and to say where it is.

What costs most is computed once and kept: what the tower makes of many pictures, and then what the lower layers make of many
questions. Each part learns from what the part before it left, alone: signs and their codes (`sorting`), merger and lower
layers (`finding`), upper layers (`saying`). Decision 0129.
"""
