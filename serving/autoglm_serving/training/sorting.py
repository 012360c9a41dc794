"""The stages of gathering and sorting: signs get codes that the tower tells apart, and its last MLP learns to tell them.

What enters that MLP is computed once, for many patches, and kept: a step of learning costs a hundredth of a step of the whole
tower. The codes begin as Fisher's discriminants; those of small Latin letters and digits stay at right angles, all others go on
learning. At the end the merger passes on what the patches tell, and words are spelled anew.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from autoglm_serving.model.load import ModelTokenizer
from autoglm_serving.training.batches import Batch
from autoglm_serving.training.discriminants import discriminants
from autoglm_serving.training.looking import spell_words
from autoglm_serving.training.network import Losses, Student
from autoglm_serving.training.signs import SIGNS, USUAL_NUMBERS
from autoglm_serving.training.spelling import Told, letter_directions, place_directions
from autoglm_serving.training.starts import write_merger


@dataclass(frozen=True)
class Patches:
    """What enters the tower's last MLP, in many patches, and what they show: signs from `first[n]` to `first[n + 1]`."""

    entering: torch.Tensor
    places: torch.Tensor
    """A patch's share of the code of its image token's place, among the directions of places."""
    first: torch.Tensor
    signs: torch.Tensor
    loud: torch.Tensor

    @property
    def counts(self) -> torch.Tensor:
        """How many signs each patch shows."""
        return self.first.diff()

    def of(self, chosen: torch.Tensor) -> "Patches":
        """Some of them."""
        counts = self.counts[chosen]
        first = functional.pad(counts.cumsum(0), (1, 0))
        begins = torch.repeat_interleave(self.first[chosen] - first[:-1], counts)
        inside = begins + torch.arange(int(first[-1]), device=chosen.device)
        return Patches(self.entering[chosen], self.places[chosen], first, self.signs[inside], self.loud[inside])

    def rows(self) -> torch.Tensor:
        """For each sign, the patch that shows it."""
        return torch.repeat_interleave(torch.arange(len(self.entering), device=self.first.device), self.counts)


def joined(parts: list[Patches]) -> Patches:
    """All of them together."""
    counts = torch.cat([each.counts for each in parts])
    return Patches(
        entering=torch.cat([each.entering for each in parts]),
        places=torch.cat([each.places for each in parts]),
        first=functional.pad(counts.cumsum(0), (1, 0)),
        signs=torch.cat([each.signs for each in parts]),
        loud=torch.cat([each.loud for each in parts]),
    )


def all_patches(entering: torch.Tensor, told: Told, codes: torch.Tensor) -> Patches:
    """Every patch of pictures whose image tokens have these codes of places, among the directions of places."""
    shows, per_token = told.patches[told.places], len(entering) // len(codes)
    order = shows.argsort(stable=True)
    return Patches(
        entering=entering,
        places=codes.repeat_interleave(per_token, 0) / per_token,
        first=functional.pad(torch.bincount(shows, minlength=len(entering)).cumsum(0), (1, 0)),
        signs=told.signs[order],
        loud=told.loud[order],
    )


@torch.no_grad()
def entering_last_mlp(student: Student, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """[patches, width]: what enters the last MLP of a student's tower."""
    entered: list[torch.Tensor] = []
    visual = student.model.model.visual
    handle = visual.blocks[-1].norm2.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    try:
        visual(pixels, grid)
    finally:
        handle.remove()
    return entered[0].float()


def after_last_mlp(student: Student, entering: torch.Tensor) -> torch.Tensor:
    """What patches tell before they are merged, from what enters the last MLP."""
    visual = student.model.model.visual
    block = visual.blocks[-1]
    told: torch.Tensor = visual.post_layernorm(entering + block.mlp(block.norm2(entering)))
    return told


class Sorter:
    """Gathers patches from a student's tower, and lets its last MLP learn codes from them."""

    def __init__(self, student: Student, seed: int) -> None:
        self._student, self._seed = student, seed
        self._parts: list[Patches] = []
        self._kinds: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @torch.no_grad()
    def gather(self, batch: Batch) -> Losses:
        """Keep what enters the last MLP, of all patches that show something and some that show nothing."""
        entering = entering_last_mlp(self._student, batch.pixels, batch.grid)
        self._parts.append(self._kept(batch, entering))
        return _nothing(entering)

    def add(self, patches: Patches) -> None:
        """Keep what was gathered elsewhere."""
        self._parts.append(patches)

    def _kept(self, batch: Batch, entering: torch.Tensor) -> Patches:
        per_token = self._student.recipe.network.patches_per_token
        codes = batch.codes @ self._directions(entering.device)[1].T
        everything = all_patches(entering, batch.told, codes)
        known = torch.zeros(len(entering) // per_token, dtype=torch.bool, device=entering.device)
        known[batch.read] = True
        # Drawn on the CPU from the number of what is there already: a run that goes on gathers the same.
        drawn = torch.rand(len(entering), generator=self._generator(len(self._parts))).to(entering.device)
        kept = ((everything.counts > 0) | (drawn < _EMPTY_KEPT)) & known.repeat_interleave(per_token)
        return everything.of(kept.nonzero().flatten())

    @torch.no_grad()
    def begin(self) -> None:
        """Take codes, and how they are read, from the discriminants of what was gathered; nothing where it shows no sign."""
        patches, student = self._patches(), self._student
        told = after_last_mlp(student, patches.entering)
        counts = patches.counts
        single = (counts == 1) & _letters(patches)
        if not bool(single.any()) or not bool((counts == 0).any()):
            return
        letters = letter_directions(student.spelling.out_features).to(told.device)
        found = discriminants(
            told[single], patches.signs[patches.first[:-1][single]], told[counts == 0], letters.shape[0]
        )
        reads, level = student.spelling.weight, student.spelling.bias
        reads.add_(letters.T @ (found.weight - letters @ reads))
        level.add_(letters.T @ (found.bias - letters @ level))
        student.codes.copy_(found.codes)

    def loss(self, number: int) -> Losses:
        """Of patches drawn for the step with this number: which sign, what is spelled, and where."""
        patches = self._patches().of(self._drawn(number))
        student, rows = self._student, patches.rows()
        read = student.spelling(after_last_mlp(student, patches.entering)).float()
        letters, places = self._directions(read.device)
        said, codes = read @ letters.T, self.codes()
        scores = torch.cat([said @ codes.T * _SHARP, said.new_full((len(said), 1), _SHARP / 2)], 1)
        busy, whole = patches.counts > 0, patches.loud == 1
        named = functional.cross_entropy(scores[rows[whole]], patches.signs[whole]) if whole.any() else scores.sum() * 0
        none = torch.full_like(patches.counts[~busy], len(SIGNS))
        empty = functional.cross_entropy(scores[~busy], none) if len(none) else scores.sum() * 0
        spelled = torch.zeros_like(said).index_add(0, rows, codes.detach()[patches.signs] * patches.loud.unsqueeze(1))
        off = (said - spelled).square().sum(1)
        symbols = torch.where(_letters(patches), 1.0, _SYMBOLS_COUNT)
        spelling = _mean((off * symbols)[busy]) + _mean(off[~busy])
        where = (read @ places.T - patches.places).square().sum(1).mean()
        right = (scores[rows[whole]].argmax(1) == patches.signs[whole]).float().mean() if whole.any() else named * 0
        return Losses(
            total=0.7 * named + 0.3 * empty + 1.2 * spelling + 3 * where,
            letters=float(named.detach()),
            spelling=float(spelling.detach()),
            tokens=float(where.detach()),
            right=float(right.detach()),
        )

    @torch.no_grad()
    def settle(self, tokenizer: ModelTokenizer) -> None:
        """Let merger and words say what the patches tell now. What was gathered is dropped."""
        student = self._student
        student.codes.copy_(self.codes())
        write_merger(student.model, student.spelling.weight, student.spelling.bias)
        spell_words(student.model, tokenizer, student.codes)
        self._parts, self._kinds = [], None

    def codes(self) -> torch.Tensor:
        """[signs, directions], each of length 1; those at right angles stay, the others have nothing in common and learn."""
        learned = self._student.codes
        others = torch.ones(len(learned), dtype=torch.bool, device=learned.device)
        others[torch.tensor(USUAL_NUMBERS, device=learned.device)] = False
        rest = functional.normalize(learned[others], dim=1)
        rest = functional.normalize(rest - rest.mean(0), dim=1)
        fixed = functional.normalize(learned.detach(), dim=1)
        return fixed.index_copy(0, others.nonzero().flatten(), rest)

    def _patches(self) -> Patches:
        if len(self._parts) != 1:
            self._parts = [joined(self._parts)]
        return self._parts[0]

    def _directions(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        width = self._student.spelling.out_features
        return letter_directions(width).to(device), place_directions(width).to(device)

    def _drawn(self, number: int) -> torch.Tensor:
        """Patches with letters, with symbols and with nothing, as many of each as there are at most."""
        patches = self._patches()
        if self._kinds is None:
            letters, busy = _letters(patches), patches.counts > 0
            kinds = (busy & letters, busy & ~letters, ~busy)
            self._kinds = (kinds[0].nonzero().flatten(), kinds[1].nonzero().flatten(), kinds[2].nonzero().flatten())
        drawing = self._generator(-1 - number)
        chosen = [
            kind[torch.randint(len(kind), (count,), generator=drawing).to(kind.device)]
            for kind, count in zip(self._kinds, _DRAWN, strict=True)
            if len(kind)
        ]
        return torch.cat(chosen)

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self._seed << 32) ^ (number & 0xFFFFFFFF))


def _letters(patches: Patches) -> torch.Tensor:
    """By patch: whether it shows no symbol. A symbol's signs are told less loudly than a letter."""
    symbols = torch.zeros(len(patches.entering), device=patches.loud.device)
    return symbols.index_add(0, patches.rows(), (patches.loud < 1).float()) == 0


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if len(values) else values.sum()


def _nothing(like: torch.Tensor) -> Losses:
    return Losses(like.sum() * 0, letters=0.0, spelling=0.0, tokens=0.0)


_EMPTY_KEPT = 0.3
"""Of the patches that show nothing."""

_DRAWN = (3000, 300, 1500)
"""Patches of a step: with letters, with symbols, with nothing."""

_SYMBOLS_COUNT = 3.0
"""How much a symbol counts beside a letter: there are few."""

_SHARP = 12.0
"""How sharply likeness tells signs apart; half of it is the score of no sign at all."""
