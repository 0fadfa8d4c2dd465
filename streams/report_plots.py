"""The report's plots as inline SVG: text stays text, colours are the page's CSS variables (light and dark), and equal figures give equal bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET  # nosec B405

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from models.experts import EXPERTS
from models.intervals import Interval
from streams.report_words import excludes_zero

COLOURS = ("ink", "muted", "rule", "headstart", *EXPERTS)
"""The CSS variables of the page's style. matplotlib is given `_paint` of them, which `_svg` puts back."""
MARKERS = {"headstart": "o", "frozen": "s", "scratch": "^"}
DASHES = {"headstart": "-", "frozen": (0, (5, 2)), "scratch": (0, (1, 1.5))}
JUMP = (0, (1, 3))
"""Between the last count that all lines reached and all of their orders nothing was measured."""
MOST_ROWS = 60
"""A plot with a row for each launch shows so many."""
INSURED_NATS = 5.0
WEIGHT_POINTS = 48
MOST_NAME = 28

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "headstart",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a line's name may hold a $
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.size": 9.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
}


class GapRow(NamedTuple):
    """One model in the forest plot: headstart's advantage over it (above 0: headstart is better), NaN where undefined."""

    name: str
    group: str
    auc: Interval
    log_loss: Interval


class Bins(NamedTuple):
    """A model's reliability bins: what was said, what came, and the interval of what came."""

    name: str
    bins: Sequence[tuple[float, float, float, float]]


class DayRatios(NamedTuple):
    """A model's predicted over observed orders by day since the launch."""

    name: str
    days: Sequence[tuple[int, Interval]]


class Course(NamedTuple):
    """A launch's weights over time: days since the launch (T,), and each expert's weight (T,)."""

    line: str
    days: Sequence[float]
    weights: Mapping[str, Sequence[float]]


class Insured(NamedTuple):
    """A launch's advantage of the mixture over scratch in nats, as it was and with its preferences reversed."""

    line: str
    real: float
    flipped: float


def forest(rows: Sequence[GapRow]) -> Markup:
    """Two panels of headstart's advantage, a row a model: AUC and log-loss."""
    with _drawing():
        figure = Figure(figsize=(8.6, 0.9 + 0.235 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(rows))[::-1]
        for axes, figure_name in ((left, "auc"), (right, "log_loss")):
            axes.axvline(0.0, color=_paint("headstart"), linewidth=1.2)
            gaps: list[Interval] = [getattr(row, figure_name) for row in rows]
            for decided, colour in ((True, _paint("ink")), (False, _paint("muted"))):
                shown = [(place, g) for place, g in zip(places.tolist(), gaps, strict=True) if np.isfinite(g.value) and excludes_zero(g) == decided]
                at = [place for place, _ in shown]
                axes.hlines(at, [g.low for _, g in shown], [g.high for _, g in shown], color=colour, linewidth=1.4)
                axes.plot(
                    [g.value for _, g in shown], at, linestyle="none", marker="o" if decided else "D", markersize=4.5, color=colour,
                    markerfacecolor=colour if decided else "none",
                )  # fmt: skip
            for place, above, below in zip(places[1:].tolist(), rows, rows[1:], strict=False):
                if above.group != below.group:
                    axes.axhline(place + 0.5, color=_paint("muted"), linewidth=0.9)
            axes.set_title(f"headstart's advantage in {'AUC' if figure_name == 'auc' else 'log-loss'}")
            axes.set_xlabel("← model better · headstart better →")
            axes.locator_params(axis="x", nbins=6)
        left.set_yticks(places, [_short(row.name) for row in rows])
        left.set_ylim(-0.7, len(rows) - 0.3)
        return _svg(
            figure,
            "forest",
            "Forest plot: headstart's advantage over every model in AUC and log-loss, with 95 % intervals. The table of all models has the same figures.",
        )


def weights_over_time(courses: Sequence[Course], experts: Sequence[str]) -> Markup:
    """Small panels, one a launch: how the mixture's weight was spread over the experts, stacked to 1."""
    columns = min(4, len(courses))
    rows = -(-len(courses) // columns)
    with _drawing():
        figure = Figure(figsize=(8.6, 0.9 + 1.45 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        handles: list[Any] = []
        for axes, course in zip(panels.flat, courses, strict=False):
            chosen = np.unique(np.linspace(0, len(course.days) - 1, min(WEIGHT_POINTS, len(course.days))).round().astype(int))
            days = np.asarray(course.days, dtype=np.float64)[chosen]
            shares = [np.nan_to_num(np.asarray(course.weights[name], dtype=np.float64)[chosen]) for name in experts]
            handles = axes.stackplot(days, shares, colors=[_paint(name) if name in EXPERTS else _paint("muted") for name in experts], linewidth=0)
            axes.set_title(_short(course.line))
            axes.set_ylim(0, 1)
            axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
        for axes in panels.flat[len(courses) :]:
            axes.set_visible(False)
        figure.supxlabel("days since the launch", fontsize=9)
        figure.legend(handles, list(experts), loc="outside upper center", ncols=min(8, len(experts)), handlelength=1, columnspacing=1.2)
        return _svg(figure, "weights", "Stacked areas for each launch: the weight of every way of transfer in the mixture, over the days since the launch.")


def learning_curves(conversions: Sequence[float], auc: Mapping[str, Sequence[float]], full: float) -> Markup:
    """AUC on later exposures against how many of the launch's orders had been learned; headstart, frozen and scratch stand out."""
    with _drawing():
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
        for name, values in auc.items():
            if name not in MARKERS:
                axes.plot(conversions[:-1], values[:-1], color=_paint("muted"), linewidth=0.8, alpha=0.6, label="the other experts")
                axes.plot(conversions[-2:], values[-2:], color=_paint("muted"), linewidth=0.8, alpha=0.6, linestyle=JUMP)
        for name in (name for name in MARKERS if name in auc):
            axes.plot(
                conversions[:-1], auc[name][:-1], color=_paint(name), linewidth=2, linestyle=DASHES[name], marker=MARKERS[name], markersize=4.5, label=name,
            )  # fmt: skip
            axes.plot(conversions[-2:], auc[name][-2:], color=_paint(name), linewidth=0.9, linestyle=JUMP, marker=MARKERS[name], markersize=4.5)
        if np.isfinite(full):
            for share in (0.95, 0.98):
                axes.axhline(share * full, color=_paint("ink"), linewidth=0.8, linestyle=(0, (2, 3)))
                axes.annotate(
                    f"{100 * share:.0f} % of the best", (1, share * full), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                    ha="left", va="center", color=_paint("ink"), fontsize=8,
                )  # fmt: skip
        every = conversions[-1]
        ticks: list[float] = []
        for n in conversions[:-1]:
            room = 0.04 * np.sqrt(every)
            if (not ticks or np.sqrt(n) - np.sqrt(ticks[-1]) > room) and np.sqrt(every) - np.sqrt(n) > 2 * room:
                ticks.append(n)
        axes.set_xticks([*ticks, every], [*(f"{n:.0f}" for n in ticks), f"all (mean {every:.0f})"])
        axes.set_xticks([], minor=True)
        axes.set_xlim(0, 1.02 * max(1.0, *conversions))
        axes.set_xlabel("orders of the launch that had been learned")
        axes.set_ylabel("AUC on later exposures")
        _legend(axes, loc="lower right", ncols=4)
        return _svg(
            figure, "learning", "Learning curves: AUC on later exposures against the number of the launch's orders learned. The table below has the counts."
        )


def reliability(models: Sequence[Bins]) -> Markup:
    """A panel a model: the share that ordered against the probability that had been said, with Wilson intervals and the diagonal."""
    with _drawing():
        figure = Figure(figsize=(8.6, 3.2), layout="compressed")
        panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)
        ends = [end for model in models for predicted, _, _, high in model.bins for end in (predicted, high) if np.isfinite(end)]
        most = 1.05 * max(ends, default=1.0)
        for axes, model in zip(panels.flat, models, strict=True):
            axes.plot([0, most], [0, most], color=_paint("muted"), linewidth=0.9, linestyle=(0, (4, 3)))
            colour = _paint(_known(model.name))
            predicted, observed, low, high = np.array(model.bins, dtype=np.float64).reshape(-1, 4).T
            axes.vlines(predicted, low, high, color=colour, linewidth=1.3)
            axes.plot(predicted, observed, linestyle="none", marker=MARKERS.get(model.name, "o"), markersize=5, color=colour)
            axes.set_title(_short(model.name))
            axes.set_xlim(0, most)
            axes.set_ylim(0, most)
            axes.set_aspect("equal")
            axes.locator_params(nbins=5)
        panels.flat[0].set_ylabel("share that ordered")
        figure.supxlabel("probability that was said (mean of a bin)", fontsize=9)
        return _svg(
            figure, "reliability", "Reliability: the share that ordered against the predicted probability, in bins of equal counts, with 95 % Wilson intervals."
        )


def ratios_by_day(models: Sequence[DayRatios]) -> Markup:
    """Predicted over observed orders by day since the launch, on a logarithmic scale."""
    with _drawing():
        figure = Figure(figsize=(8.6, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1.0, color=_paint("ink"), linewidth=0.9)
        axes.set_yscale("log")
        values = [end for model in models for _, r in model.days for end in (r.value, r.low, r.high) if np.isfinite(end) and end > 0]
        low, high = max(0.1, min([0.8, *values])), min(10.0, max([1.25, *values]))
        for k, model in enumerate(models):
            shift = 0.14 * (k - (len(models) - 1) / 2)
            shown = [(day + shift, r) for day, r in model.days if np.isfinite(r.value)]
            bars = [(x, r.low, min(r.high, 1e3)) for x, r in shown if r.low > 0]
            axes.vlines([b[0] for b in bars], [b[1] for b in bars], [b[2] for b in bars], color=_paint(_known(model.name)), linewidth=1.1)
            axes.plot(
                [x for x, _ in shown], [r.value for _, r in shown], color=_paint(_known(model.name)), marker=MARKERS.get(model.name, "o"), markersize=5,
                linestyle=DASHES.get(model.name, "-"), linewidth=1.2, label=_short(model.name),
            )  # fmt: skip
        ticks = [t for t in (0.1, 0.2, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 5.0, 10.0) if low / 1.1 <= t <= high * 1.1]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_yticks([], minor=True)
        axes.set_ylim(low / 1.1, high * 1.1)
        days = sorted({day for model in models for day, _ in model.days})
        days = days[:: 1 + len(days) // 20]
        axes.set_xticks(days, [str(day + 1) for day in days])
        axes.set_xlabel("day since the launch")
        axes.set_ylabel("predicted / observed")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return _svg(figure, "days", "Predicted over observed orders by day since the launch, with 95 % intervals. The table below has the same figures.")


def insurance(launches: Sequence[Insured]) -> Markup:
    """A row a launch: the mixture's advantage over scratch in nats; the shaded side is beyond what is insured."""
    with _drawing():
        figure = Figure(figsize=(8.6, 1.0 + 0.22 * len(launches)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(launches))[::-1]
        axes.plot([i.real for i in launches], places, linestyle="none", marker="o", markersize=5.5, color=_paint("headstart"), label="as it was")
        axes.plot([i.flipped for i in launches], places, linestyle="none", marker="X", markersize=6, color=_paint("instance"), label="preferences reversed")
        axes.axvline(0.0, color=_paint("ink"), linewidth=0.9)
        low, high = axes.get_xlim()
        low = min(low, -2 * INSURED_NATS)
        axes.axvspan(low, -INSURED_NATS, color=_paint("muted"), alpha=0.18, linewidth=0)
        axes.set_xlim(low, high)
        axes.set_yticks(places, [_short(i.line) for i in launches])
        axes.set_ylim(-0.7, len(launches) - 0.3)
        axes.set_xlabel("← scratch better · nats of the mixture's advantage over scratch · mixture better →")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return _svg(
            figure,
            "insurance",
            "Dots for each launch: the mixture's advantage over scratch in nats, as it was and with preferences reversed. At most 5 may be lost.",
        )


def auc_by_line(lines: Sequence[tuple[str, Mapping[str, float]]]) -> Markup:
    """A row a line: the AUC of headstart, frozen and scratch, joined."""
    with _drawing():
        figure = Figure(figsize=(8.6, 1.0 + 0.22 * len(lines)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(lines))[::-1]
        axes.axvline(0.5, color=_paint("ink"), linewidth=0.9)
        known = [[v for v in values.values() if np.isfinite(v)] or [np.nan] for _, values in lines]
        axes.hlines(places, [min(v) for v in known], [max(v) for v in known], color=_paint("muted"), linewidth=1)
        for name in MARKERS:
            axes.plot(
                [values.get(name, np.nan) for _, values in lines], places, linestyle="none", marker=MARKERS[name], markersize=5.5, color=_paint(name), label=name
            )  # fmt: skip
        axes.set_yticks(places, [_short(line) for line, _ in lines])
        axes.set_ylim(-0.7, len(lines) - 0.3)
        axes.set_xlabel("AUC (.5: no better than chance)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return _svg(figure, "lines", "Dots for each line: the AUC of headstart, frozen and scratch. The table below has the same figures.")


@contextmanager
def _drawing() -> Iterator[None]:
    """matplotlib's own defaults and our style, whatever a matplotlibrc says; no warning for letters that its font lacks, since the browser has them."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mpl.rcdefaults()
        ink: dict[Any, Any] = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor"), _paint("ink"))
        lines: dict[Any, Any] = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), _paint("muted"))
        mpl.rcParams.update({**STYLE, **ink, **lines, "grid.color": _paint("rule")})
        yield


def _paint(name: str) -> str:
    """A colour that stands for a CSS variable until `_svg`."""
    return f"#0{COLOURS.index(name):02x}e5d"


def _known(name: str) -> str:
    return name if name in COLOURS else "ink"


def _short(name: str) -> str:
    """A name as a plot can hold it: one line, nothing that XML forbids, cut if long."""
    plain = "".join(c if c.isprintable() else " " for c in name).strip() or "–"
    return plain if len(plain) <= MOST_NAME else plain[: MOST_NAME - 1] + "…"


def _legend(axes: Any, *, loc: str, ncols: int) -> None:
    """A legend in which each label stands once."""
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if once:
        axes.legend(once.values(), once.keys(), loc=loc, ncols=ncols)


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an element for a page: ids of its own, no namespaces, no comments, two decimals, CSS variables for colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Only what matplotlib has just written is parsed here.
    root = ET.fromstring(buffer.getvalue())  # nosec B314
    for parent in list(root.iter()):
        for child in [c for c in parent if _local(c.tag) in ("metadata", "style")]:
            parent.remove(child)
    paints = {_paint(colour): f"var(--{colour})" for colour in COLOURS}
    for element in root.iter():
        element.tag = _local(element.tag)
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href":
                value = f"#{name}-{value.removeprefix('#')}"
            else:
                value = re.sub(r"url\(#", f"url(#{name}-", value)
                value = re.sub(r"#[0-9a-f]{6}", lambda found: paints.get(found[0], found[0]), value)
                value = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), " ".join(value.split()))
            element.set(key, value)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": label})
    # Safe: names were escaped by matplotlib, and again here.
    return Markup(ET.tostring(root, encoding="unicode"))  # nosec B704


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
