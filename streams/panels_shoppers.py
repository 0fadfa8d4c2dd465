"""Who comes to a launch now, beside who came in its first days: the tile and the panel, with each feature's old and new mean and the direction in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.chronicle import FIRST_EXPOSURES, Blocks, last_day
from models.covariates import WHO, Moments, psi, told_apart
from models.watch import APART_LARGE, FEWEST_NOW, PSI_LARGE
from streams.feature_words import direction, mean_of, words
from streams.panels import Panel, State, Table, Verdict, axes, number, whole
from streams.records import Launch
from streams.trust import heard_ms
from streams.view import Look

PSI_SHOWN: Final = 0.05
"""From so much on a bar has its means written beside it."""

UNKNOWN_IS_0: Final = ("price", "age", "level")


@dataclass(frozen=True)
class Moved:
    """A feature, now against the first days: PSI, PSI against training, and the means then and now in the feature's own units; None where none is kept."""

    name: str
    psi: float
    against_training: float
    before: float | None = None
    now: float | None = None
    sd: float = 0.0  # how far the mean has moved, in standard deviations of the training rows

    @property
    def label(self) -> str:
        """What it is called."""
        return words(self.name).label

    @property
    def means(self) -> str:
        """Both means, in words; "" where they are not known, or are those of a code."""
        return "" if self.before is None or self.now is None or self.name == "region" else f"{mean_of(self.name, self.before)} → {mean_of(self.name, self.now)}"

    @property
    def direction(self) -> str:
        """Which way its mean has moved, in words."""
        return "other regions" if self.name == "region" else direction(self.name, self.sd)

    @property
    def told(self) -> str:
        """The feature with its direction and means."""
        return f"{self.label}: {self.direction}" + (f" ({self.means})" if self.means else "") if self.now is not None else self.label


@dataclass(frozen=True)
class Spread:
    """Who comes now against the first days, and whether there is enough to tell. `features`: the most changed first."""

    features: list[Moved]
    apart: float
    now: int
    then: int

    @property
    def enough(self) -> bool:
        """Whether there is enough to tell."""
        return bool(self.features) and self.now >= FEWEST_NOW

    @property
    def large(self) -> list[Moved]:
        """Features of the shopper that are spread otherwise, the largest first."""
        return [moved for moved in self.features if moved.name in WHO and moved.psi >= PSI_LARGE]

    @property
    def differ(self) -> bool:
        """Whether other shoppers come."""
        return self.enough and (bool(self.large) or self.apart >= APART_LARGE)

    @property
    def what(self) -> str:
        """What differs, in words."""
        told = "; ".join(moved.told for moved in self.large) or "many small differences"
        return told + (", what is unknown counted as 0" if any(moved.means and moved.name in UNKNOWN_IS_0 for moved in self.large) else "")


def spread_of(look: Look, launch: str) -> Spread:
    """Compare a launch's last day with its first days."""
    blocks, about = look.blocks.get(launch, Blocks()), look.about
    then, until_ms = blocks.first()
    now = blocks.between(max(until_ms, last_day(heard_ms(look, launch))))
    if about is None or not until_ms or not now.moments.n or now.trunk != then.trunk or now.spread.shape != then.spread.shape:
        return Spread([], math.nan, now.moments.n, then.moments.n)
    reference = np.array(about.reference, np.int64)
    own = psi(now.spread, then.spread)
    old = psi(now.spread, reference) if now.spread.shape == reference.shape else np.full(len(own), np.nan)
    scales = {name: (mean, sd) for name, mean, sd in zip(about.features, about.mean, about.std, strict=False)}
    found = [
        _moved(name, float(a), float(b), now.moments, then.moments, scales.get(name)) for name, a, b in zip(about.features, own, old, strict=False)
    ]  # fmt: skip
    return Spread(sorted(found, key=lambda moved: -moved.psi), told_apart(now.moments, then.moments), now.moments.n, then.moments.n)


def _moved(name: str, own: float, old: float, now: Moments, then: Moments, scale: tuple[float, float] | None) -> Moved:
    if name not in WHO or scale is None or not then.n:
        return Moved(name, own, old)
    place, (mean, sd) = WHO.index(name), scale
    z_now, z_then = float(now.z[place]) / now.n, float(then.z[place]) / then.n
    return Moved(name, own, old, mean + sd * z_then, mean + sd * z_now, z_now - z_then)


def shoppers(look: Look, launch: Launch) -> Verdict:
    """Return the answer to who comes."""
    question, panel = "Who comes?", "shoppers"
    spread = spread_of(look, launch.id)
    if spread.differ:
        return Verdict(question, "Other shoppers than at first", f"The last day against the first days: {spread.what}.", "warn", panel)
    if not spread.enough:
        return Verdict(
            question, "Still getting to know them", f"The first day and {FIRST_EXPOSURES} exposures are what later ones are compared with.", "none", panel
        )
    return Verdict(question, "The same kind of shoppers", "Those of the last day are like those of the first days.", "good", panel)


def shoppers_panel(look: Look, launch: Launch) -> Panel:
    """Return how each feature of the shoppers is spread now against the first days."""
    spread = spread_of(look, launch.id)
    rows: list[list[Any]] = [
        [m.name, m.label, m.psi, *(m.means.split(" → ") if m.means else (None, None)), m.against_training, "yes" if m.name in WHO else "no"]
        for m in spread.features
    ]
    shown = [moved for moved in spread.features if moved.name in WHO][:10][::-1]
    says, state = "", "none"
    if spread.differ:
        says, state = f"Other shoppers come than in the first days. What differs: {spread.what}.", "warn"
    elif spread.enough:
        says, state = f"The shoppers of the last day are like those of the first days; the largest PSI is {shown[-1].psi:.2f} ({shown[-1].label}).", "good"
    told: State = state  # type: ignore[assignment]
    return Panel(
        "shoppers", "Are they the same kind of shoppers?", says,
        f"PSI measures how differently a feature is spread among the exposures of the last day and those of the launch's first days: up to .1 is noise, above {PSI_LARGE} is large. "
        "The means are those of the first days → those of the last day; counts, times and prices are held as logarithms, so their means are geometric, and what is unknown counts as 0. "
        "“Told apart” is how often a classifier can tell a shopper of today from one of the first days: .5 is not at all. Other shoppers do not make scores wrong, so nothing is reset for it; "
        "but if a campaign brought them, you see it here. Features that change because the launch becomes known, or because time passes, are in the table, not in the chart.",
        Table(["feature", "what it is", "PSI against the first days", "mean, first days", "mean, last day", "PSI against the old lines in training", "about who comes"], rows),
        state=told,
        data=[
            {"type": "bar", "orientation": "h", "y": [m.label for m in shown], "x": [m.psi for m in shown], "name": "PSI",
             "text": [": ".join(filter(None, (m.direction, m.means))) if m.now is not None and m.psi >= PSI_SHOWN else "" for m in shown], "textposition": "auto", "cliponaxis": False,
             "marker": {"color": ["@warn" if m.psi >= PSI_LARGE else "@c1" for m in shown]}, "customdata": [m.told for m in shown], "hovertemplate": "%{x:.2f}, %{customdata}<extra></extra>"},
        ] if shown else [],
        layout=axes("PSI against the first days", yaxis={"automargin": True}, xaxis={"range": [0, max(1.0, *(m.psi for m in shown))] if shown else [0, 1.0]},
                    shapes=[{"type": "line", "x0": PSI_LARGE, "x1": PSI_LARGE, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "@warn", "dash": "dash", "width": 1}}], showlegend=False),
        empty=f"Waits for a day and {FIRST_EXPOSURES} exposures to compare with.",
        numbers=[("told apart", number(spread.apart), ".50 is not at all"), ("exposures of the last day", whole(spread.now), f"against {whole(spread.then)} of the first days"),
                 *((m.label, m.means, m.direction) for m in spread.large[:2] if m.means)] if shown else (),
    )  # fmt: skip
