"""The picture of one score: how its logit adds up, as two waterfalls whose axis is marked with chances."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from features.errors import InputError
from streams.explaining import STEPS, Explained, chance, odds, percent
from streams.feature_words import reasons

FORMATS: Final = (".png", ".svg")
MOST_REASONS: Final = 12
UP, DOWN, WHOLE, INK, RULE = "#1f7a5c", "#b4472e", "#5b6b7c", "#1d2733", "#c9d1d9"
LONGEST: Final = 58
CHANCES: Final = (
    1e-4,
    3e-4,
    0.001,
    0.002,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.07,
    0.1,
    0.12,
    0.15,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    0.95,
    0.98,
    0.99,
    0.997,
    0.999,
)
LEAST_WIDTH: Final = 0.6  # of the axis, in logits


class Step(NamedTuple):
    """One bar: what it adds to the sum before it. The first one is where the sum begins, and is drawn as a mark."""

    label: str
    change: float


def picture(told: Explained) -> Figure:
    """Return the figure: above, what comes from old lines and from this product; below, what of the shopper moved it."""
    book = told.ledger
    above = [Step(STEPS[name], part) for name, part in told.steps.items()]
    found = reasons(book.feature_names, told.x.tolist(), book.features.shares.tolist())
    moved = [reason for reason in found if reason.share]
    below = [Step("the mean shopper of the old lines", book.features.start)]
    below += [Step(_short(f"{reason.label}: {reason.value}"), reason.share) for reason in moved[:MOST_REASONS]]
    if rest := moved[MOST_REASONS:]:
        below.append(Step(f"{len(rest)} others", sum(reason.share for reason in rest)))
    below.append(Step("rounding of the path", book.features.residual))
    figure = Figure(figsize=(10.0, 1.9 + 0.32 * (len(above) + len(below) + 2)), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, height_ratios=[len(above) + 1, len(below) + 1])
    what = f"launch {told.launch.id}" if told.launch else f"line {told.line}"
    figure.suptitle(
        f"{_short(told.asked.user)}, {_short(what)}: {percent(book.probability)} chance of an order",
        fontsize=13,
        color=INK,
        x=0.01,
        ha="left",
        parse_math=False,
    )
    _waterfall(upper, above, "Where the chance comes from", spread=book.total_sd)
    _waterfall(lower, below, "Why this shopper differs from the mean one")
    return figure


def draw(told: Explained, file: Path) -> None:
    """Write the picture as PNG or SVG, by the file's ending. Raises InputError for another ending, and if the file cannot be written."""
    check(file)
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "headstart"}):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name may be in any script
        try:
            picture(told).savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else {})
        except OSError as error:
            raise InputError(f"--plot {file} cannot be written: {error.strerror or error}") from None


def check(file: Path) -> None:
    """Raise InputError unless the file's ending names a format that can be drawn."""
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"--plot {file}: expected a name that ends with {' or '.join(FORMATS)}")


def _waterfall(axes: Any, steps: Sequence[Step], title: str, *, spread: float = 0.0) -> None:
    total = 0.0
    ends = [0.0]
    for row, step in enumerate(steps):
        before, total = total, total + step.change
        ends.append(total)
        if row == 0:
            axes.plot([total], [row], marker="D", color=WHOLE, markersize=6)
            axes.annotate(chance(total), (total, row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
        else:
            axes.barh(row, step.change, left=before, height=0.62, color=UP if step.change >= 0 else DOWN)
            axes.annotate(
                f"odds {odds(step.change)}",
                (max(before, total), row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
            )
        axes.plot([total, total], [row, row + 1], color=RULE, linewidth=1, zorder=0)
    last = len(steps)
    axes.errorbar([total], [last], xerr=[spread] if spread else None, marker="D", color=WHOLE, markersize=7, capsize=4)
    axes.annotate(chance(total), (total + spread, last), xytext=(8, 0), textcoords="offset points", va="center", fontsize=10, weight="bold", color=INK)
    axes.set_yticks(range(last + 1), [*(step.label for step in steps), "this score" + (", give or take" if spread else "")], fontsize=9, parse_math=False)
    axes.set_ylim(last + 0.6, -0.6)
    low, high = min(*ends[1:], total - spread), max(*ends[1:], total + spread)
    middle, half = (low + high) / 2, max(high - low, LEAST_WIDTH) / 2
    axes.set_xlim(middle - 1.15 * half, middle + 1.45 * half)
    _mark_chances(axes)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(axis="x", color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _mark_chances(axes: Any) -> None:
    """Mark the axis of logits with chances that lie far enough from each other to be read."""
    low, high = axes.get_xlim()
    ticks: list[float] = []
    for p in CHANCES:
        at = math.log(p / (1 - p))
        if low <= at <= high and (not ticks or at - ticks[-1] >= 0.06 * (high - low)):
            ticks.append(at)
    if len(ticks) < 3:
        ticks = [low + part * (high - low) for part in (0.1, 0.37, 0.63, 0.9)]
    axes.set_xticks(ticks, [chance(at) for at in ticks], fontsize=8)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
