"""Fitted curves of latency and accuracy over a size P (pixels, image tokens or parameters), and how far to trust them.

    latency  = a * P**b + c          accuracy = 1 - d / (1 + e * P)

Source: "Open-AutoGLM model compression and acceleration", section 2.5. Both curves are linear in two of their numbers once
the third is fixed, so least squares are solved exactly for those and the third is searched: no start values, the same answer
every time. The error is that of points the fit has not seen (k-fold cross-validation).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Point = tuple[float, float]
"""P and what was measured at it."""

Curve = TypeVar("Curve")

_COARSE, _ROUNDS, _ZOOM = 60, 5, 24
MIN_POINTS = 4


class NotEnoughPoints(ValueError):
    """A curve with three numbers needs more measurements, at different sizes."""


@dataclass(frozen=True)
class Latency:
    """latency = a * P**b + c, in the unit that was measured; all three at least zero."""

    a: float
    b: float
    c: float

    def at(self, size: float) -> float:
        return float(self.a * size**self.b + self.c)

    def largest_within(self, limit: float) -> float:
        """The largest size whose predicted latency is at most `limit`; 0 where none is, infinity where all are."""
        if limit < self.c:
            return 0.0
        if self.a <= 0 or self.b <= 0:
            return math.inf if limit >= self.a + self.c else 0.0
        return float(((limit - self.c) / self.a) ** (1 / self.b))


@dataclass(frozen=True)
class Accuracy:
    """accuracy = 1 - d / (1 + e * P); d is what is lost at size zero, e how fast that is won back."""

    d: float
    e: float

    def at(self, size: float) -> float:
        return 1 - self.d / (1 + self.e * size)


@dataclass(frozen=True)
class FitError:
    """How a curve does on points it was fitted to, and on points it was not."""

    points: int
    folds: int
    rmse: float
    """On the points of the fit, in the measured unit."""
    held_out_rmse: float
    """Over all points, each predicted by a fit that has not seen it."""
    held_out_relative: float
    """The same, as the mean share of the measured value."""


def fit_latency(points: Sequence[Point]) -> Latency:
    """Least squares for a, b, c. Raises NotEnoughPoints below four points or three sizes."""
    _check(points)

    def with_exponent(exponent: float) -> tuple[float, Latency]:
        slope, level = _line([(size**exponent, value) for size, value in points])
        curve = Latency(slope, exponent, level)
        return _squares(curve.at, points), curve

    return _search(with_exponent, 0.05, 4.0)


def fit_accuracy(points: Sequence[Point]) -> Accuracy:
    """Least squares for d and e. Raises NotEnoughPoints below four points or three sizes."""
    _check(points)
    typical = sum(size for size, _ in points) / len(points)

    def with_rate(log_rate: float) -> tuple[float, Accuracy]:
        rate = math.exp(log_rate) / typical
        shapes = [1 / (1 + rate * size) for size, _ in points]
        lost = sum(shape * (1 - value) for shape, (_, value) in zip(shapes, points, strict=True))
        curve = Accuracy(max(0.0, lost / sum(shape * shape for shape in shapes)), rate)
        return _squares(curve.at, points), curve

    return _search(with_rate, math.log(1e-3), math.log(1e4))


def check_latency(points: Sequence[Point], folds: int = 5) -> FitError:
    """Cross-validate the latency curve."""
    return _cross_validate(lambda part: fit_latency(part).at, points, folds)


def check_accuracy(points: Sequence[Point], folds: int = 5) -> FitError:
    """Cross-validate the accuracy curve."""
    return _cross_validate(lambda part: fit_accuracy(part).at, points, folds)


def _cross_validate(
    fit: Callable[[Sequence[Point]], Callable[[float], float]], points: Sequence[Point], folds: int
) -> FitError:
    """Every `folds`-th point by size is held out in turn, so that each fold spans all sizes."""
    ordered = sorted(points)
    folds = min(folds, len(ordered))
    if folds < 2:
        raise NotEnoughPoints("cross-validation needs at least two folds")
    errors: list[tuple[float, float]] = []
    for fold in range(folds):
        curve = fit([point for i, point in enumerate(ordered) if i % folds != fold])
        errors += [(curve(size) - value, value) for size, value in ordered[fold::folds]]
    return FitError(
        points=len(ordered),
        folds=folds,
        rmse=math.sqrt(_squares(fit(ordered), ordered) / len(ordered)),
        held_out_rmse=math.sqrt(sum(error * error for error, _ in errors) / len(errors)),
        held_out_relative=sum(abs(error) / max(abs(value), 1e-12) for error, value in errors) / len(errors),
    )


def _search(solve: Callable[[float], tuple[float, Curve]], low: float, high: float) -> Curve:
    """The curve with the least squares over one number: a coarse grid, then finer ones around the best."""
    points = [low + (high - low) * i / _COARSE for i in range(_COARSE + 1)]
    step = (high - low) / _COARSE
    best = min(points, key=lambda at: solve(at)[0])
    for _ in range(_ROUNDS):
        near = [min(max(best + step * i / _ZOOM, low), high) for i in range(-_ZOOM, _ZOOM + 1)]
        best = min(near, key=lambda at: solve(at)[0])
        step /= _ZOOM / 2
    return solve(best)[1]


def _line(points: Sequence[Point]) -> tuple[float, float]:
    """Slope and level of the best line, neither below zero (time is never won by more work or before the start)."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread > 0 else 0.0
    if slope <= 0:
        return 0.0, mean_y
    level = mean_y - slope * mean_x
    if level >= 0:
        return slope, level
    return sum(x * y for x, y in points) / sum(x * x for x, _ in points), 0.0


def _squares(curve: Callable[[float], float], points: Sequence[Point]) -> float:
    return sum((curve(size) - value) ** 2 for size, value in points)


def _check(points: Sequence[Point]) -> None:
    if len(points) < MIN_POINTS or len({size for size, _ in points}) < MIN_POINTS - 1:
        raise NotEnoughPoints(f"a fit needs {MIN_POINTS} measurements at {MIN_POINTS - 1} sizes, got {len(points)}")
    if any(size <= 0 or not math.isfinite(size) or not math.isfinite(value) for size, value in points):
        raise ValueError("sizes must be positive and measurements finite")
