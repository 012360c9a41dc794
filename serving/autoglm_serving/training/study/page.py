"""The resolution study as a page. Every figure and sentence follows from the stored study."""

from autoglm_serving.markdown import table
from autoglm_serving.routing_table import ResolutionPolicy
from autoglm_serving.training.ablation.table import Finding, listed
from autoglm_serving.training.intervals import Share
from autoglm_serving.training.study import simulated
from autoglm_serving.training.study.data import EVERY_KIND, Study
from autoglm_serving.training.study.policies import Cascade, Fixed, Outcome, fixed_against_many, joined, outcome, split
from autoglm_serving.vision.costs import NotEnoughPoints, check_accuracy, fit_accuracy

FIXED = 512
"""The fixed size that several sizes are compared with."""

FULL = 1080

ARTICLE_LOSSES = (0.062, 0.031)
"""Of accuracy, with fixed sampling (48 ms) and with sampling by load (46 ms): "compression", section 3.3."""


_HEAD = """# Resolution study of {model}

Made by `{source}` on {measured}; {machine}. {tasks} tasks on {screens} screens that training never saw.
Accuracy with Wilson's 95 % interval. Times are processor time of one thread.

![Accuracy and time by size](resolution.svg)
"""

_STOPS = """A size stops paying where no larger one is right more often beyond chance (McNemar, 5 %). Full size here is
{full} px.
"""

_SEVERAL = """Sizes by kind of screen, or small pictures first and the large one only where the answer is unsure, against
{side} px for everything. The policy is chosen on half of the screens and judged on the other half, both ways.
"""


def page(study: Study) -> str:
    """Markdown."""
    parts = [
        _head(study),
        "## Accuracy by size and kind of screen\n",
        _accuracy(study),
        "## What a size costs\n",
        _costs(study),
        "## Where more pixels stop paying\n",
        _stops(study),
        "## One size against several\n",
        _comparison(study),
        "## Controllers of the resolution\n",
        listed(controllers(study)),
        "## Fitted curves\n",
        listed(fits(study)),
    ]
    return "\n".join(parts)


def _head(study: Study) -> str:
    return _HEAD.format(
        model=study.model,
        source=study.source,
        measured=study.measured,
        machine=study.machine,
        tasks=len(study.tasks),
        screens=len({each.screen for each in study.tasks}),
    )


def controllers(study: Study) -> list[Finding]:
    """R(t), early exit and down-sampling by load on the study's answers."""
    return [_dynamic(study), _early_exit(study), _by_load(study)]


def fits(study: Study) -> list[Finding]:
    """The cost models, and how far they are off on points that they have not seen."""
    latency, error = study.latency, study.latency_error
    checked = "too few to check" if error is None else f"{error.folds}-fold cross-validation"
    found = [
        Finding(
            group=7,
            name="latency = a*P^b + c, P image tokens",
            measured=f"{latency.a:.3g}*P^{latency.b:.2f} + {latency.c:.1f} ms",
            compared_with=f"{len(study.timings)} measured points, {checked}",
            verdict="-" if error is None else f"off by {100 * error.held_out_relative:.0f} % on points it has not seen",
        )
    ]
    curve = [(study.mean_tokens(EVERY_KIND, place), study.share(EVERY_KIND, place).value) for place in _places(study)]
    try:
        accuracy, missed = fit_accuracy(curve), check_accuracy(curve)
    except NotEnoughPoints:
        return found
    return [
        *found,
        Finding(
            group=7,
            name="accuracy = 1 - d/(1 + e*P), P image tokens",
            measured=f"d = {accuracy.d:.3f}, e = {accuracy.e:.3g}",
            compared_with=f"{missed.points} sizes, {missed.folds}-fold cross-validation",
            verdict=f"off by {100 * missed.held_out_rmse:.1f} points on sizes it has not seen",
        ),
    ]


def _accuracy(study: Study) -> str:
    lines = []
    for kind in (*study.kinds, EVERY_KIND):
        cells = [_share(study.share(kind, place)) for place in _places(study)]
        lines.append([_named(kind), str(len(study.of_kind(kind))), *cells])
    columns = ["kind", "tasks", *(f"{side} px" for side in study.short_sides)]
    return table(columns, lines, "lr" + "l" * len(study.short_sides)) + "\n"


def _costs(study: Study) -> str:
    columns = ["short side", "image tokens", "GFLOP", "ms to the first token", "right per added 100 ms"]
    lines = []
    for place in _places(study):
        gained = ""
        if place:
            more = study.share(EVERY_KIND, place).value - study.share(EVERY_KIND, place - 1).value
            time = study.mean_ms(EVERY_KIND, place) - study.mean_ms(EVERY_KIND, place - 1)
            gained = f"{100 * more / max(time, 1e-9) * 100:+.1f} points"
        tokens, milliseconds = study.mean_tokens(EVERY_KIND, place), study.mean_ms(EVERY_KIND, place)
        work = f"{study.gflops[place]:.1f}"
        lines.append([str(study.short_sides[place]), f"{tokens:.0f}", work, f"{milliseconds:.0f}", gained])
    return table(columns, lines, "rrrrr") + "\n"


def _stops(study: Study) -> str:
    full = study.nearest(FULL)
    columns = ["kind", "stops paying at", "right there", "right at full size", "time saved", "image tokens saved"]
    lines = []
    for kind in (*study.kinds, EVERY_KIND):
        place = study.stops_paying(kind)
        time = 1 - study.mean_ms(kind, place) / study.mean_ms(kind, full)
        tokens = 1 - study.mean_tokens(kind, place) / study.mean_tokens(kind, full)
        right = [_share(study.share(kind, place)), _share(study.share(kind, full))]
        saved = [f"{100 * time:.0f} %", f"{100 * tokens:.0f} %"]
        lines.append([_named(kind), f"{study.short_sides[place]} px", *right, *saved])
    return _STOPS.format(full=study.short_sides[full]) + "\n" + table(columns, lines, "lrllrr") + "\n"


def _comparison(study: Study) -> str:
    found = fixed_against_many(study, FIXED)
    side = study.short_sides[study.nearest(FIXED)]
    lines = [
        _policy_row(f"fixed {side} px", found.fixed, found.fixed),
        _policy_row("several sizes, at most the same time", found.same_time, found.fixed),
        _policy_row("several sizes, at least the same accuracy", found.same_accuracy, found.fixed),
    ]
    said = table(["policy", "right", "ms to the first token", "against fixed"], lines, "llrl")
    chosen = "Chosen (same time, same accuracy; first half, then second): " + "; ".join(found.chosen) + "."
    return f"{_SEVERAL.format(side=side)}\n{said}\n\n{chosen}\n"


def _policy_row(name: str, here: Outcome, fixed: Outcome) -> list[str]:
    points, time = 100 * (here.accuracy - fixed.accuracy), here.milliseconds / fixed.milliseconds - 1
    said = "" if here is fixed else f"{points:+.1f} points, {100 * time:+.0f} % time"
    return [name, f"{100 * here.accuracy:.1f} %", f"{here.milliseconds:.0f}", said]


def _dynamic(study: Study) -> Finding:
    policy = ResolutionPolicy(mode="dynamic", min_short_side=480, max_short_side=FULL)
    found = simulated.run(study, simulated.by_formula(study, policy))
    full = simulated.run(study, simulated.fixed(study.nearest(FULL)))
    return Finding(
        group=6,
        name="R(t), alpha 0.6, 480 to 1080",
        measured=_outcome(found),
        compared_with=f"always {study.short_sides[study.nearest(FULL)]} px: {_outcome(full)}",
        verdict=_change(found, full),
    )


def _early_exit(study: Study) -> Finding:
    largest = study.stops_paying(EVERY_KIND)
    if largest == 0:
        return Finding(
            group=7, name="early exit", measured="-", compared_with="-", verdict="the smallest size is enough"
        )
    first, rights, base = largest // 2, [], []
    for learned, judged in (split(study.tasks), split(study.tasks)[::-1]):
        least = outcome(study, Cascade(first, largest, 1.0), learned).right
        limits = [step / 20 for step in range(1, 21)]
        fits = [limit for limit in limits if outcome(study, Cascade(first, largest, limit), learned).right >= least]
        rights.append(outcome(study, Cascade(first, largest, min(fits, default=1.0)), judged))
        base.append(outcome(study, Fixed(largest), judged))
    found, plain = joined(rights), joined(base)
    return Finding(
        group=7,
        name=f"early exit: {study.short_sides[first]} px first, {study.short_sides[largest]} px where unsure",
        measured=_outcome(found),
        compared_with=f"always {study.short_sides[largest]} px: {_outcome(plain)}",
        verdict=_change(found, plain),
    )


def _by_load(study: Study) -> Finding:
    full = simulated.run(study, simulated.fixed(len(study.short_sides) - 1))
    middle = simulated.run(study, simulated.fixed(study.nearest(FIXED)))
    place = simulated.fixed_within(study, middle.milliseconds)
    fixed = simulated.run(study, simulated.fixed(place))
    found = simulated.run(study, simulated.by_load(study, fixed.milliseconds))
    lost = [100 * (full.accuracy - each.accuracy) for each in (fixed, found)]
    article = [100 * loss for loss in ARTICLE_LOSSES]
    return Finding(
        group=8,
        name=f"step = max(1, floor(4*load)) within {fixed.milliseconds:.0f} ms",
        measured=f"{_outcome(found)}, {lost[1]:.1f} points lost",
        compared_with=f"always {study.short_sides[place]} px: {_outcome(fixed)}, {lost[0]:.1f} points lost",
        verdict=_change(found, fixed)
        + f" (the article: 48 ms, {article[0]:.1f} % lost; 46 ms, {article[1]:.1f} % lost)",
    )


def _outcome(found: Outcome) -> str:
    return f"{100 * found.accuracy:.1f} % right, {found.milliseconds:.0f} ms"


def _change(here: Outcome, there: Outcome) -> str:
    points, time = 100 * (here.accuracy - there.accuracy), 100 * (here.milliseconds / there.milliseconds - 1)
    if points >= 0 and time <= 0:
        said = "pays"
    elif points < 0 and time >= 0:
        said = "does not pay"
    else:
        said = "a trade"
    return f"{said}: {points:+.1f} points, {time:+.0f} % time"


def _places(study: Study) -> range:
    return range(len(study.short_sides))


def _share(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _named(kind: str) -> str:
    return "all" if kind == EVERY_KIND else kind
