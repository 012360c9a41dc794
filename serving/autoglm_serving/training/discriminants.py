"""Codes of signs from where a tower puts them: Fisher's discriminants of what its patches tell.

A patch of 96 numbers knows hundreds of signs apart, but only along directions of its own. Codes that are drawn for Chinese
signs cannot be read from it linearly; codes that are taken from where it puts each sign can (decisions 0112, 0114).
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from autoglm_serving.training.signs import LATIN, SIGNS, USUAL_NUMBERS


@dataclass(frozen=True)
class Discriminants:
    """A patch's code is `weight @ patch + bias`; `codes` [signs, directions] are what it is near, each of length 1."""

    weight: torch.Tensor
    bias: torch.Tensor
    codes: torch.Tensor


@dataclass(frozen=True)
class _Classes:
    """Middles of what patches tell, by sign, in how many patches each was seen; and the middle of empty patches."""

    middles: torch.Tensor
    counts: torch.Tensor
    empty: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        return self.counts > 0


def discriminants(patches: torch.Tensor, signs: torch.Tensor, empty: torch.Tensor, directions: int) -> Discriminants:
    """From patches [n, width] that show one sign each, its numbers [n], and patches that show none.

    Signs that were not seen get codes by chance. Directions that the width has not are zero. Raises ValueError without patches
    of both sorts.
    """
    if not len(patches) or not len(empty):
        raise ValueError("discriminants need patches with a sign and patches without one")
    classes = _classes(patches, signs, empty)
    whiten = _whitening(patches - classes.middles[signs], empty - classes.empty)
    apart, cleaned = _without_scripts((classes.middles - classes.empty) @ whiten, classes.seen)
    loud = apart[classes.seen] * classes.counts[classes.seen, None].clamp(max=_ENOUGH).sqrt()
    found = torch.linalg.svd(loud, full_matrices=False)[2][:directions]
    weight = found @ cleaned @ whiten
    weight = functional.pad(weight, (0, 0, 0, directions - len(weight)))
    told = (classes.middles - classes.empty) @ weight.T
    length = told[classes.seen].norm(dim=1).mean().clamp(min=_TINY)
    told = torch.where(classes.seen[:, None], told / length, torch.randn_like(told))
    return Discriminants(weight / length, -(weight / length) @ classes.empty, squared(normed(told)))


_ENOUGH = 30
"""A sign seen more often counts no more: letters that are everywhere would take all directions."""

_OF_EMPTY = 0.3
"""How much the spread of empty patches counts beside that within signs."""

_LEVELLED = 0.02
"""Of the mean spread, added to all directions: those with hardly any spread would be blown up."""

_TINY = 1e-6


def normed(codes: torch.Tensor) -> torch.Tensor:
    """Codes of length 1, without what all signs of a script have in common: it would say only that here is one."""
    parts = [part - part.mean(0) for part in (codes[:LATIN], codes[LATIN:])]
    return functional.normalize(torch.cat(parts), dim=1)


def squared(codes: torch.Tensor) -> torch.Tensor:
    """The same codes, with small Latin letters and digits moved to right angles: the nearest that there are."""
    usual = torch.tensor(USUAL_NUMBERS, device=codes.device)
    left, _, right = torch.linalg.svd(codes[usual], full_matrices=False)
    return functional.normalize(codes.index_copy(0, usual, left @ right), dim=1)


def _classes(patches: torch.Tensor, signs: torch.Tensor, empty: torch.Tensor) -> _Classes:
    counts = torch.zeros(len(SIGNS), device=patches.device).index_add(
        0, signs, torch.ones_like(signs, dtype=torch.float)
    )
    sums = torch.zeros(len(SIGNS), patches.shape[1], device=patches.device).index_add(0, signs, patches)
    return _Classes(sums / counts.clamp(min=1)[:, None], counts, empty.mean(0))


def _whitening(within: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """What makes the spread of patches that show the same equal in all directions."""
    spread = (within.T @ within + _OF_EMPTY * around.T @ around) / (len(within) + _OF_EMPTY * len(around))
    level = _LEVELLED * spread.trace() / len(spread) + _TINY
    values, turned = torch.linalg.eigh(spread + level * torch.eye(len(spread), device=spread.device))
    found: torch.Tensor = turned @ torch.diag(values.rsqrt()) @ turned.T
    return found


def _without_scripts(middles: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The middles without the two directions in which scripts lie, and what takes those out."""
    latin = torch.arange(len(middles), device=middles.device) < LATIN
    means = [middles[seen & which].mean(0) for which in (latin, ~latin) if bool((seen & which).any())]
    scripts = torch.linalg.qr(torch.stack(means, 1))[0]
    cleaned = torch.eye(middles.shape[1], device=middles.device) - scripts @ scripts.T
    return middles @ cleaned, cleaned
