"""The course of a campaign in one picture: the lift with its interval, and the evidence, while users came."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from features.errors import InputError
from models.uplift import Uplift

LINE: Final = "#2b5c8a"
MUTED: Final = "#6b6b6b"
SUFFIXES: Final = (".png", ".svg")
MOST_LIFT: Final = 2.0
"""Intervals may be without end at first: the axis goes no further than this, or twice what they are at the end."""
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "headstart", "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e4e4e4", "axes.axisbelow": True, "axes.titlelocation": "left", "axes.titlesize": 10.0, "font.size": 9.0,
}  # fmt: skip


def write_plot(found: Uplift, file: Path, *, title: str) -> None:
    """Write the picture as PNG or SVG, by the file's name; equal figures give equal bytes. Raises InputError for another name or a file that cannot be written."""
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot {file}: the name must end in {' or '.join(SUFFIXES)}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.6), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _lift(above, found)
        _evidence(below, found)
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else {"Software": None})
        except OSError as error:
            raise InputError(f"--plot {file} cannot be written: {error.strerror or error}") from None


def _lift(axes: Any, found: Uplift) -> None:
    path = found.path
    low, high = [i.low for i in path.lift], [i.high for i in path.lift]
    last = max((abs(v) for v in (low[-1:] + high[-1:]) if math.isfinite(v)), default=1.0)
    limit = min(MOST_LIFT, max(0.1, 2.0 * last))
    axes.axhline(0.0, color=MUTED, linewidth=1.0)
    axes.fill_between(path.users, [max(v, -1.0) for v in low], [min(v, 10.0 * MOST_LIFT) for v in high], color=LINE, alpha=0.2, linewidth=0)
    axes.plot(path.users, [i.value for i in path.lift], color=LINE)
    axes.set_ylim(max(-1.0, -limit), limit)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.0f} %" if value else "0 %")
    axes.set_title(f"Lift, and where it lies with {100 * (1 - found.alpha):g} % (at all times together)")


def _evidence(axes: Any, found: Uplift) -> None:
    path = found.path
    axes.axhline(1.0 / found.alpha, color=MUTED, linewidth=1.0, linestyle="--")
    axes.plot(path.users, path.e_value, color=LINE)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_ylim(min(0.1, *path.e_value) if path.e_value else 0.1, max(4.0 / found.alpha, *path.e_value) if path.e_value else 4.0 / found.alpha)
    axes.set_title(f"Evidence against “no difference” (e-value; above {1 / found.alpha:.0f}, the dashes, it is settled)")
    axes.set_xlabel("users whose first exposure is final")
