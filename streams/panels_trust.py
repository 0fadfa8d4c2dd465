"""The panels of a launch that show whether its scores can be trusted: orders as foretold and as they came, calibration, and the evidence of a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from models.chronicle import BLOCK_MS, PLACE, Blocks
from models.e_detector import ARMED_AFTER
from models.react import DONE
from models.sketches import MILLION, Group, ratio, reliability
from streams.alerts import KINDS, Alert
from streams.panels import ORDER_COUNTS, Panel, State, Table, axes, band, iso, line, number, series, span, total, when, whole
from streams.records import SHARED, Launch
from streams.trust import RECENT_MS, Shift, came, design_effect, heard_ms, trust
from streams.view import Look

CHANCES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Where axes of probabilities may end: the same for all launches of a shop, so that pages can be laid side by side."""
LEAST_EVIDENCE: Final = 1e-4
LABELS: Final = 3
"""So many alarms, the latest, are marked with a line; the table and the triangles have them all."""
RIGHT: Final = "1 is right; below it fewer orders come than foretold, above it more"


def chance_axis(look: Look, most: float = 0.0) -> list[float]:
    """Return the range of an axis of probabilities: several times the old lines' order rate, and more only where a launch needs it."""
    old = total(look.rows.get(SHARED)) or [0] * len(PLACE)
    usual = old[PLACE["ordered"]] / old[PLACE["matured"]] if old[PLACE["matured"]] else 0.0
    return [0.0, next((end for end in CHANCES if end >= max(4.0 * usual, most)), 1.0)]


def upright(at: str, colour: str, text: str, *, to_left: bool, down: int = 0, top: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a vertical line at a time, and its label; `down`: by how many lines of text the label is moved."""
    mark = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": colour, "dash": "dot", "width": 1.5}}
    label = {"x": at, "y": 1 if top else 0, "yref": "paper", "yanchor": "top" if top else "bottom", "xanchor": "right" if to_left else "left", "text": text,
             "showarrow": False, "yshift": -13 * down, "font": {"size": 10, "color": "@ink"}, "bgcolor": "@surface"}  # fmt: skip
    return mark, label


def _began(shift: Shift | None, starts: Sequence[int], *, top: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if shift is None or not starts or shift.since_ms < starts[0]:
        return []
    return [upright(iso(shift.since_ms), "@bad", f"{shift.direction} orders since about here", to_left=_late(shift.since_ms, starts), top=top)]


def _late(at_ms: int, starts: Sequence[int]) -> bool:
    """Whether a label at this time has its room on the left."""
    return at_ms > (starts[0] + starts[-1]) / 2


def orders_panel(look: Look, launch: Launch) -> Panel:
    """Return what came beside what was foretold, over time."""
    s = series(look.rows.get(launch.id), least_ms=BLOCK_MS)
    expected = [v / MILLION for v in s.column(PLACE["expected"])] if s.starts else []
    hits = s.column(PLACE["hits"]) if s.starts else []
    half = [1.96 * math.sqrt(design_effect(look) * max(e, 0.25)) for e in expected]
    low, high = [max(0.0, e - h) for e, h in zip(expected, half, strict=True)], [e + h for e, h in zip(expected, half, strict=True)]
    outside = sum(not a <= y <= b for a, y, b in zip(low, hits, high, strict=True))
    says = ""
    if hits:
        says = f"Since the launch {whole(sum(hits))} exposures ended in an order, and {number(sum(expected), 0)} were foretold to. {outside} of {len(hits)} steps lie outside the band."
    marks = _began(trust(look, launch.id).shift, s.starts, top=True)
    return Panel(
        "orders", "Exposures with an order: foretold and come", says,
        "Every time a delay bin of an exposure closes, we know whether its order came in it. The line is how many orders the scores had foretold for the bins that closed "
        "then, in exposures with an order; the dots are those that came. The band holds 19 of 20 dots while the scores are right. This shows a shift within hours, long before final labels. "
        f"All since the launch are here; the funnel counts only exposures whose time is over. {ORDER_COUNTS}",
        Table(["from", "foretold with an order", "came with an order", "band from", "band to"], [list(r) for r in zip(s.times, expected, hits, low, high, strict=True)]),
        data=[
            *band(s.times, low, high, "19 of 20", "@bandc1"),
            line(s.times, expected, "foretold", "@c1"),
            {"type": "scatter", "mode": "markers", "x": s.times, "y": hits, "name": "came", "marker": {"color": "@ink", "size": 7}},
        ] if hits else [],
        layout=axes("", f"with an order, {s.each}", yaxis={"rangemode": "tozero"}, shapes=[m for m, _ in marks], annotations=[a for _, a in marks]),
        empty="Waits for the first delay bin that closes.",
    )  # fmt: skip


def calibration_panel(look: Look, launch: Launch) -> Panel:
    """Return the reliability curve, and orders that came over those foretold."""
    deff, blocks = design_effect(look), look.blocks.get(launch.id, Blocks())
    everything, late = blocks.between(), blocks.between((heard_ms(look, launch.id) - RECENT_MS) // BLOCK_MS * BLOCK_MS)
    groups, now = (reliability(b.told[0], b.told[1], b.told[2], groups=8, deff=deff) for b in (everything, late))
    judged, so_far = trust(look, launch.id), came(look, launch.id)
    final = int(everything.told[1].sum())
    on_final, final_low, final_high = ratio(final, float(everything.told[2].sum()) / MILLION, deff=deff)
    top = chance_axis(look, max((max(g.said, g.came, g.high) for g in (*groups, *now)), default=0.0))

    def curve(found: list[Group], name: str, colour: str, size: int) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "markers+lines", "x": [g.said for g in found], "y": [g.came for g in found], "name": name, "line": {"color": colour, "width": 1.5},
            "marker": {"color": colour, "size": size}, "error_y": {"type": "data", "symmetric": False, "array": [g.high - g.came for g in found],
            "arrayminus": [g.came - g.low for g in found], "color": colour, "thickness": 1, "width": 0}, "hovertemplate": "said %{x:.1%}, came %{y:.1%}<extra>" + name + "</extra>",
        }  # fmt: skip

    numbers = [
        ("came / foretold, last two days", number(judged.recent.value), judged.recent.interval),
        ("since the launch", number(so_far.value), so_far.interval),
        ("final labels only", number(on_final), f"{number(final_low)} to {number(final_high)}"),
    ]
    return Panel(
        "calibration", "Do probabilities mean what they say?", f"In the last two days {judged.recent.words}." if groups else "",
        f"Came / foretold: orders that came over those that the scores had foretold, with the interval that chance explains. {RIGHT}. It counts delay bins that have closed, so that it is quick (a bin is a part of the time in which an order counts, such as the first hour); "
        f"“final labels only” leaves out exposures whose {span(1000 * launch.window_s)} are not over ({whole(final)} of the {whole(so_far.orders)} with an order are in it). "
        "The chart, on final labels: exposures are put into groups by the probability that their score gave. Horizontal axis: what was said. Vertical axis: how many really ordered, with the range in which the true rate lies "
        "(95 %, allowing for shoppers who are counted more than once). On the dashed line the scores are right; below it they promise too much.",
        Table(["period", "exposures", "said", "came", "from", "to"],
              [[name, g.n, g.said, g.came, g.low, g.high] for name, found in (("since the launch", groups), ("last two days", now)) for g in found]),
        state=judged.state,
        data=[
            line([0, 1], [0, 1], "perfect", "@muted", line={"dash": "dash", "width": 1}, hoverinfo="skip"),
            curve(groups, "since the launch", "@c1", 7), *([curve(now, "last two days", "@c4", 6)] if now else []),
        ] if groups else [],
        layout=axes("probability that was said", "share that ordered", xaxis={"tickformat": ".0%", "range": top}, yaxis={"tickformat": ".0%", "range": top}),
        empty="Waits for the first final labels.",
        numbers=numbers if groups else (),
    )  # fmt: skip


def drift_panel(look: Look, launch: Launch) -> Panel:
    """Return the evidence of a shift over time, where it began anew, and what was found of each kind of drift."""
    s = series(look.rows.get(launch.id))
    evidence = [max(g[2], LEAST_EVIDENCE) if len(g) > 2 else None for g in s.gauges]
    own = look.alerts_of(launch.id)
    rows: list[list[Any]] = []
    for kind, meaning in KINDS.items():
        if kind != "quality":
            found = [a for a in own if a.kind == kind]
            rows.append(
                [kind, meaning, len(found), iso(found[0].at_ms) if found else None, iso(found[0].since_ms) if found else None, found[0].done if found else None]
            )
    shown = [a for a in own if a.kind in ("calibration", "early_funnel", "confirmed") and s.starts and a.at_ms >= s.starts[0]]
    resets = [a for a in shown if a.kind == "calibration"][:LABELS][::-1]
    shift = trust(look, launch.id).shift
    lines = [
        upright(iso(a.at_ms), "@ink", f"alarm {1 + k}", to_left=_late(a.at_ms, s.starts), down=k) for k, a in enumerate(resets)
    ] + _began(shift, s.starts, top=False)  # fmt: skip
    marks = {"type": "scatter", "mode": "markers", "x": [iso(a.at_ms) for a in shown], "y": [1.0] * len(shown), "name": "alerts", "text": [f"{a.kind}: {a.text}" for a in shown],
             "hovertemplate": "%{text}<extra></extra>", "marker": {"symbol": "triangle-down", "size": 12, "color": ["@bad" if a.kind == "calibration" else "@warn" for a in shown]}}  # fmt: skip
    says, state, numbers = _finding(look, launch.id, shift, known=bool(evidence))
    return Panel(
        "drift", "Drift, by kind", says,
        "The line is the evidence that orders no longer come as the scores say, in units of what raises an alarm. The alarm line is set so that a launch on which nothing changes crosses it about once in "
        "100 days. When it is crossed, the launch lets go of part of what it has learned (unless the setting drift_actions is off), and the evidence starts again from nothing: the latest such moments are marked. "
        f"After an alarm {ARMED_AFTER} further orders must come before the next one, however high the line stands. "
        "“Since about” is the most likely beginning, give or take six hours; the alarm comes later, when there is enough evidence. Where a second alarm says that its shift began within half a day of the first one, that is the same shift, which began when its first alarm says. "
        "“Since the last alarm” tells whether the reset has worked; exposures that were scored before it are still among its bins for as long as an order may take. "
        "The table says of each kind of drift what was found; only the first kind acts.",
        Table(["kind", "what it means", "found", "last at", "since about", "what was done"], rows),
        state=state,
        data=[line(s.times, evidence, "evidence", "@c1"), line([s.times[0], s.times[-1]], [1, 1], "alarm", "@bad", line={"dash": "dash", "width": 1}, hoverinfo="skip"), *([marks] if shown else [])] if evidence else [],
        layout=axes(_at_alarms(resets), "evidence / alarm", yaxis={"type": "log", "range": [-4, 1.3], "tickvals": [0.0001, 0.01, 1], "ticktext": ["1/10 000", "1/100", "1"]},
                    shapes=[m for m, _ in lines], annotations=[a for _, a in lines]),
        empty="Waits for the first delay bin that closes.",
        numbers=numbers,
    )  # fmt: skip


def _at_alarms(resets: Sequence[Alert]) -> str:
    """What the lines in the chart mean."""
    if not resets:
        return ""
    reset = "level reset, " if resets[-1].done == DONE else ""
    return f"at each alarm: {reset}evidence starts again"


def _finding(look: Look, launch: str, shift: Shift | None, *, known: bool) -> tuple[str, State, Sequence[tuple[str, str, str]]]:
    """What the panel says, its state, and whether a reset has worked."""
    if shift is None:
        return ("No shift: the evidence is below the alarm line.", "good", ()) if known else ("", "none", ())
    after = came(look, launch, since_ms=shift.last.at_ms)
    says = f"{shift.direction.capitalize()} orders come than the scores say since about {when(shift.since_ms)}; the alarm came {when(shift.first.at_ms)}"
    says += f", and again {when(shift.last.at_ms)}. " if shift.last is not shift.first else ". "
    says += f"Done: {shift.last.done}. "
    if after.enough and not after.low <= 1.0 <= after.high:
        says += "The scores have not caught up yet."
    elif after.enough and not after.wide:
        says += "Since then the scores have been right."
    else:
        says += f"Whether the scores have caught up cannot be told yet, after {whole(after.orders)} orders."
    before = came(look, launch, since_ms=shift.since_ms, until_ms=shift.last.at_ms)
    labels = ("came / foretold, from when it began to the last alarm", "since the last alarm")
    return says, "bad", [(label, number(c.value), f"{c.interval}, {whole(c.orders)} with an order") for label, c in zip(labels, (before, after), strict=True)]
