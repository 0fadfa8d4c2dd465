"""What the figures of a campaign mean, in sentences: the conclusion, what makes it doubtful, and how shares are written."""

from __future__ import annotations

import math
from collections.abc import Iterator

from models.uplift import SAMPLE_RATIO_ALPHA, Uplift
from streams.uplift import Gathered


def conclusion(judged: Uplift) -> str:
    """Return what a marketer should conclude, in a sentence or two."""
    if judged.verdict == "too few":
        lacking = [name for name, arm in (("treated", judged.treated), ("holdout", judged.holdout)) if not arm.users]
        why = f"no {' and no '.join(lacking)} user has a final exposure" if lacking else "nobody has ordered"
        return f"Too few users to tell anything yet: {why}."
    low, high = judged.lift.low, judged.lift.high
    if judged.verdict == "not comparable":
        return "No conclusion: the arms' sizes do not fit, so the arms may not be comparable."
    if judged.verdict == "undecided":
        if math.isinf(high):
            return "So far no difference can be told: there are too few orders to say how large the lift may be."
        return f"So far no difference can be told: the campaign may change orders by anything from {signed(low)} to {signed(high)}."
    if judged.verdict == "lowers":
        return f"The campaign lowers orders by {percent_of(-high)} to {percent_of(-low)}."
    if math.isinf(high):
        return f"The campaign lifts orders by at least {percent_of(low)}."
    return f"The campaign lifts orders by {percent_of(low)} to {percent_of(high)}."


def warnings(judged: Uplift, found: Gathered) -> list[str]:
    """Return what makes the figures doubtful, a sentence each."""
    return list(_warnings(judged, found))


def _warnings(judged: Uplift, found: Gathered) -> Iterator[str]:
    ratio = judged.sample_ratio
    if not ratio.fits:
        yield (
            f"The arms' sizes do not fit: {percent_of(ratio.observed)} of the users are held out, {percent_of(ratio.expected)} should be "
            f"(p {ratio.p_value:.1g}, limit {SAMPLE_RATIO_ALPHA}). Do not trust this comparison before you know why. Are users missing from one arm? Then no "
            "figure holds. Does the campaign bring people to the shop? Then the lift per assigned user holds, and the other figures do not."
        )
    if not judged.scores_balanced:
        yield (
            "The arms' scores differ already at the first exposure: the campaign may have reached users before it, or the arms are not alike. "
            "Do not use the figure with CUPED."
        )
    if found.repeated:
        yield f"{found.repeated} exposures came more than once; each counts once."
    yield from (note[0].upper() + note[1:] + "." for note in found.notes)


def percent_of(value: float, digits: int | None = None) -> str:
    """Return a share as people read it."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "any size"
    least = 1 if abs(value) < 0.0995 else 0
    return f"{100 * value:.{least if digits is None else digits}f} %"


def signed(value: float) -> str:
    """Return a share with its sign."""
    return percent_of(value) if not math.isfinite(value) else ("+" if value >= 0 else "−") + percent_of(abs(value))
