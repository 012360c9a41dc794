"""Prompts whose image tokens change in number: a variant that makes fewer of them needs fewer placeholders."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Label of a column without loss."""
FILL = {"attention_mask": 0, "mm_token_type_ids": 0, "labels": IGNORED}
"""What stands in padded columns; input_ids get the pad token."""

Inputs = dict[str, Any]


def image_runs(row: Tensor, image_token: int) -> list[list[int]]:
    """Columns of each picture's placeholders in one row of input_ids; pictures are never next to each other."""
    marked = groupby(enumerate(row.tolist()), key=lambda pair: pair[1] == image_token)
    return [[column for column, _ in group] for is_image, group in marked if is_image]


def resize_runs(inputs: Inputs, image_token: int, pad_token: int, counts: Sequence[int]) -> Inputs:
    """The batch with counts[i] placeholders for its i-th picture. Unchanged when the counts are right already."""
    ids: Tensor = inputs["input_ids"]
    runs = [image_runs(row, image_token) for row in ids]
    flat = [run for row in runs for run in row]
    if len(flat) != len(counts):
        raise ValueError(f"{len(flat)} pictures in the prompts, {len(counts)} in the grids")
    if all(len(run) == count for run, count in zip(flat, counts, strict=True)):
        return inputs
    wanted = iter(counts)
    columns = [_resized(ids.shape[1], row, [next(wanted) for _ in row]) for row in runs]
    return take_columns(inputs, columns, pad_token)


def _resized(length: int, runs: Sequence[Sequence[int]], counts: Sequence[int]) -> list[int]:
    """Columns of the old row that make the new one."""
    columns: list[int] = []
    position = 0
    for run, count in zip(runs, counts, strict=True):
        columns += [*range(position, run[0]), *[run[0]] * count]
        position = run[-1] + 1
    return [*columns, *range(position, length)]


def take_columns(inputs: Inputs, columns: Sequence[Sequence[int]], pad_token: int) -> Inputs:
    """The batch with these columns in each row, padded on the left; position_ids [3, B, S] follow. Masked columns go."""
    mask: Tensor = inputs["attention_mask"]
    kept = [[c for c in row if mask[i, c]] for i, row in enumerate(columns)]
    width = max(len(row) for row in kept)
    changed = dict(inputs)
    for name in ("input_ids", *FILL):
        if inputs.get(name) is not None:
            changed[name] = _gather(inputs[name], kept, width, FILL.get(name, pad_token))
    if inputs.get("position_ids") is not None:
        changed["position_ids"] = torch.stack([_gather(axis, kept, width, 0) for axis in inputs["position_ids"]])
    return changed


def _gather(rows: Tensor, columns: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    out = rows.new_full((rows.shape[0], width), fill)
    for i, chosen in enumerate(columns):
        out[i, width - len(chosen) :] = rows[i, torch.tensor(chosen, device=rows.device)]
    return out
