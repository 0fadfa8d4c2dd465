"""The panels of a launch: is it going well, can the scores be trusted, who comes, and where the scores come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.vector import FEATURES
from models.chronicle import PLACE, Block, Blocks
from models.covariates import WHO, psi, told_apart
from models.experts import EXPERTS
from models.sketches import MILLION, auc, precision_at, ratio, reliability
from models.watch import APART_LARGE, FEWEST_NOW, OWN_FIRST, PSI_LARGE
from streams.alerts import KINDS, Alert
from streams.explaining import EXPERTS_IN_WORDS
from streams.panels import DAY_MS, Panel, State, Table, Verdict, axes, band, iso, last_ms, line, number, percent, series, span, total, when, whole
from streams.records import SHARED, Launch
from streams.view import Look

RECENT_MS: Final = 2 * DAY_MS
ALARMED_MS: Final = 3 * DAY_MS
BLOCK_MS: Final = 6 * 3_600_000
FEWEST_ORDERS: Final = 20
TOP: Final = 0.05
OWN: Final = ("feature", "scratch")
"""Experts that take no belief from old lines."""
_MEANINGS: Final = {feature.name: feature.meaning for feature in FEATURES}
COLOURS: Final = ("@c1", "@c2", "@c3", "@c4", "@c5", "@c6", "@c7", "@c8")


def verdicts(look: Look, launch: Launch) -> list[Verdict]:
    """Return the answers to what people ask of a launch first."""
    return [_going(look, launch), _trusted(look, launch), _shoppers(look, launch)]


def figures(look: Look, launch: str) -> dict[str, Any]:
    """Return a launch's figures so far, as they are shown: counts, rates, calibration, ranking."""
    counts = total(look.rows.get(launch)) or [0] * len(PLACE)
    block = look.blocks.get(launch, Blocks()).between()
    get = {name: counts[place] for name, place in PLACE.items()}
    deff = _deff(look)
    value, low, high = ratio(get["predicted"] / MILLION, get["ordered"], deff=deff)
    soon, soon_low, soon_high = ratio(get["expected"] / MILLION, get["hits"], deff=deff)
    n, hits = block.matured.astype(np.float64), block.ordered.astype(np.float64)
    scored, foretold = block.scored.astype(np.float64), block.scored_p / MILLION
    return {
        "exposures": get["heard"],
        "orders": get["hits"],
        "final": get["matured"],
        "final_orders": get["ordered"],
        "conversion": get["ordered"] / get["matured"] if get["matured"] else math.nan,
        "clicked": get["clicked"],
        "carted": get["carted"],
        "predicted_observed": value,
        "predicted_observed_low": low,
        "predicted_observed_high": high,
        "bins_expected_observed": soon,
        "bins_expected_observed_low": soon_low,
        "bins_expected_observed_high": soon_high,
        "auc": auc(n, hits),
        "precision_at_5pct": precision_at(TOP, n, hits),
        "log_loss": get["loss"] / MILLION / get["matured"] if get["matured"] else math.nan,
        "auc_expected": auc(scored, foretold),
        "precision_at_5pct_expected": precision_at(TOP, scored, foretold),
    }


def _deff(look: Look) -> float:
    return max(1.0, look.about.deff) if look.about else 1.0


def _recent(look: Look, launch: str) -> tuple[float, float, float, int]:
    """Predicted over observed orders in the bins that closed in the last two days, its interval, and the orders."""
    counts = total(look.rows.get(launch), since_ms=_now_ms(look, launch) - RECENT_MS, until_ms=_now_ms(look, launch))
    if not counts:
        return math.nan, math.nan, math.nan, 0
    return *ratio(counts[PLACE["expected"]] / MILLION, counts[PLACE["hits"]], deff=_deff(look)), counts[PLACE["hits"]]


def _now_ms(look: Look, launch: str) -> int:
    """When the launch was last heard of: what is recent is measured from there, so that a replay's end, or a quiet week, shows the last that there was."""
    return last_ms(look.rows.get(launch), PLACE["heard"]) or look.now_ms


def _alarm(look: Look, launch: str, kind: str, within_ms: int) -> Alert | None:
    return next((a for a in look.alerts_of(launch) if a.kind == kind and _now_ms(look, launch) - a.at_ms <= within_ms), None)


def _going(look: Look, launch: Launch) -> Verdict:
    question, panel = "Is it going well?", "funnel"
    f = figures(look, launch.id)
    if not f["final"]:
        return Verdict(question, "Too early to say", f"{whole(f['exposures'])} exposures so far, and no label is final yet.", "none", panel)
    old = total(look.rows.get(SHARED)) or [0] * len(PLACE)
    usual = old[PLACE["ordered"]] / old[PLACE["matured"]] if old[PLACE["matured"]] else math.nan
    why = f"{percent(f['conversion'])} of {whole(f['final'])} exposures ended in an order"
    if math.isnan(usual):
        return Verdict(question, f"{whole(f['final_orders'])} orders", why + ".", "none", panel)
    why += f"; of the old lines' {percent(usual)}."
    spread = 1.96 * math.sqrt(_deff(look) * max(usual * (1 - usual), 1e-9) / f["final"])
    if f["conversion"] > usual + spread:
        return Verdict(question, "Better than the old lines", why, "good", panel)
    if f["conversion"] < usual - spread:
        return Verdict(question, "Below the old lines", why, "warn", panel)
    return Verdict(question, "Like the old lines", why, "good", panel)


def _trusted(look: Look, launch: Launch) -> Verdict:
    question, panel = "Can the scores be trusted?", "calibration"
    value, low, high, orders = _recent(look, launch.id)
    told = f"{number(value)} orders foretold for each that came in the last two days ({number(low)} to {number(high)})"
    alarm = _alarm(look, launch.id, "calibration", ALARMED_MS)
    if alarm is not None:
        more = "more" if alarm.evidence["direction"] > 0 else "fewer"
        return Verdict(
            question, "No: calibration has shifted", f"Since about {when(alarm.since_ms)} {more} orders come than the scores say. {told}.", "bad", panel
        )
    if orders < FEWEST_ORDERS:
        return Verdict(question, "Too early to say", f"{orders} orders in the last two days; {FEWEST_ORDERS} are needed.", "none", panel)
    if low > 1.5 or high < 0.67:
        return Verdict(question, "No: far from calibrated", told + ".", "bad", panel)
    if low > 1.0 or high < 1.0:
        return Verdict(question, "With care", told + ": 1 is not among them.", "warn", panel)
    return Verdict(question, "Yes", told + ".", "good", panel)


@dataclass(frozen=True)
class _Spread:
    """Who comes now against the first days: (name, PSI, PSI against training) of each feature, and whether there is enough to tell."""

    features: list[tuple[str, float, float]]
    apart: float
    now: int
    then: int
    since_ms: int
    begun: bool

    @property
    def enough(self) -> bool:
        return bool(self.features) and self.now >= FEWEST_NOW

    @property
    def large(self) -> list[str]:
        """Features of the shopper that are spread otherwise, the largest first."""
        return [name for name, value, _ in self.features if name in WHO and value >= PSI_LARGE]

    @property
    def differ(self) -> bool:
        return self.enough and (bool(self.large) or self.apart >= APART_LARGE)


def _spread(look: Look, launch: str) -> _Spread:
    blocks = look.blocks.get(launch, Blocks())
    then, until_ms = blocks.first(OWN_FIRST)
    since_ms = max(until_ms, (_now_ms(look, launch) // BLOCK_MS - 3) * BLOCK_MS)
    now = blocks.between(since_ms)
    names = look.about.features if look.about else []
    reference = np.array(look.about.reference, np.int64) if look.about else np.zeros((0, 10), np.int64)
    if not until_ms or not now.moments.n or now.trunk != then.trunk or now.spread.shape != then.spread.shape:
        return _Spread([], math.nan, now.moments.n, then.moments.n, since_ms, bool(until_ms))
    own = psi(now.spread, then.spread)
    old = psi(now.spread, reference) if now.spread.shape == reference.shape else np.full(len(own), np.nan)
    found = sorted(((name, float(a), float(b)) for name, a, b in zip(names, own, old, strict=False)), key=lambda row: -row[1])
    return _Spread(found, told_apart(now.moments, then.moments), now.moments.n, then.moments.n, since_ms, True)


def _shoppers(look: Look, launch: Launch) -> Verdict:
    question, panel = "Who comes?", "shoppers"
    spread = _spread(look, launch.id)
    if spread.differ:
        names = ", ".join(map(_short, spread.large)) or "many small differences"
        return Verdict(question, "Other shoppers than at first", f"Those of the last day differ from those of the first days in: {names}.", "warn", panel)
    if not spread.enough:
        return Verdict(question, "Still getting to know them", f"The first day and {OWN_FIRST} exposures are what later ones are compared with.", "none", panel)
    return Verdict(question, "The same kind of shoppers", "Those of the last day are like those of the first days.", "good", panel)


def panels(look: Look, launch: Launch) -> list[Panel]:
    """Return a launch's panels, in the order in which they are shown; uplift is apart, since it is read from the topic."""
    return [
        _funnel(look, launch), _activity(look, launch), _orders(look, launch), _calibration(look, launch), _drift(look, launch), _who(look, launch),
        _ranking(look, launch), _mixture(look, launch), _origin(look, launch), _delay(look, launch), _alerts(look, launch),
    ]  # fmt: skip


def _funnel(look: Look, launch: Launch) -> Panel:
    counts, old = (total(look.rows.get(name)) or [0] * len(PLACE) for name in (launch.id, SHARED))
    steps = [("exposures", "matured"), ("with a click", "clicked"), ("with a cart", "carted"), ("with an order", "ordered")]
    mine, theirs = ([c[PLACE[name]] for _, name in steps] for c in (counts, old))
    shares, usual = ([v / c[0] if c[0] else math.nan for v in c] for c in (mine, theirs))
    traffic = total(look.traffic.get(launch.id)) or [0] * 5
    rows = [[label, mine[i], shares[i], usual[i]] for i, (label, _) in enumerate(steps)]
    rows += [[f"{kind} events, as they came", traffic[k], None, None] for k, kind in enumerate(("browse", "click", "cart", "order"))]
    labels = [label for label, _ in steps]
    says = f"Of 100 exposures {100 * shares[1]:.0f} led to a click, {100 * shares[2]:.0f} to a cart and {100 * shares[3]:.1f} to an order." if mine[0] else ""
    return Panel(
        "funnel", "From a look to an order", says,
        f"An exposure is a shopper's first look at the launch in a visit. It is followed for {span(1000 * launch.window_s)}; here are those whose time is over. "
        "The pale bars are the old lines' share at the same step, so you see where the launch loses shoppers that others keep. Only one in eight of the old lines' exposures is looked at for this.",
        Table(["step", "number", "share of exposures", "old lines' share"], rows),
        data=[
            {"type": "bar", "orientation": "h", "y": labels, "x": usual, "name": "old lines", "marker": {"color": "@faint"}, "hovertemplate": "%{x:.1%}<extra>old lines</extra>"},
            {"type": "bar", "orientation": "h", "y": labels, "x": shares, "name": "this launch", "marker": {"color": "@c1"},
             "text": [f"{whole(v)} · {percent(s)}" for v, s in zip(mine, shares, strict=True)], "textposition": "auto", "hovertemplate": "%{x:.1%}<extra>this launch</extra>"},
        ] if mine[0] else [],
        layout=axes("share of exposures", xaxis={"tickformat": ".0%"}, yaxis={"autorange": "reversed", "automargin": True}, bargap=0.25),
        empty="Waits for the first exposure whose attribution window is over.",
    )  # fmt: skip


def _activity(look: Look, launch: Launch) -> Panel:
    s = series(look.traffic.get(launch.id))
    kinds = ("browse", "click", "cart", "order")
    foretold = [v / MILLION / max(1, sum(row[:4])) for v, row in zip(s.column(4), s.counts, strict=True)]
    return Panel(
        "activity", "Events and scores as they come",
        f"{whole(sum(map(sum, (row[:4] for row in s.counts))))} events were scored; the last {s.by}: {whole(sum(s.counts[-1][:4]))}." if s.starts else "",
        "How many events of the launch arrived, by kind, and the mean chance of an order that their scores gave. Each valid event gets a score.",
        Table(["from", *kinds, "mean probability"], [[t, *row[:4], f] for t, row, f in zip(s.times, s.counts, foretold, strict=True)]),
        data=[
            *({"type": "bar", "x": s.times, "y": s.column(k), "name": kind, "marker": {"color": colour}} for k, (kind, colour) in enumerate(zip(kinds, ("@c1", "@c2", "@c3", "@c4"), strict=True))),
            line(s.times, foretold, "mean probability", "@ink", yaxis="y2", line={"width": 1.5, "dash": "dot"}),
        ] if s.starts else [],
        layout=axes("", f"events {s.each}", barmode="stack", yaxis2={"overlaying": "y", "side": "right", "tickformat": ".0%", "rangemode": "tozero", "showgrid": False, "title": {"text": ""}}),
        empty="Waits for the first event of the launch.",
    )  # fmt: skip


def _orders(look: Look, launch: Launch) -> Panel:
    s = series(look.rows.get(launch.id), least_ms=BLOCK_MS)
    expected = [v / MILLION for v in s.column(PLACE["expected"])] if s.starts else []
    hits = s.column(PLACE["hits"]) if s.starts else []
    half = [1.96 * math.sqrt(_deff(look) * max(e, 0.25)) for e in expected]
    low, high = [max(0.0, e - h) for e, h in zip(expected, half, strict=True)], [e + h for e, h in zip(expected, half, strict=True)]
    outside = sum(not a <= y <= b for a, y, b in zip(low, hits, high, strict=True))
    says = f"{whole(sum(hits))} orders came; {number(sum(expected), 0)} were foretold. {outside} of {len(hits)} steps lie outside the band." if hits else ""
    return Panel(
        "orders", "Orders: foretold and come", says,
        "Every time a delay bin of an exposure closes, we know whether its order came in it. The line is how many orders the scores had foretold for the bins that closed "
        "then; the dots are those that came. The band holds 19 of 20 dots while the scores are right. This shows a shift within hours, long before final labels.",
        Table(["from", "orders foretold", "orders that came", "band from", "band to"], [list(r) for r in zip(s.times, expected, hits, low, high, strict=True)]),
        state="none",
        data=[
            *band(s.times, low, high, "19 of 20", "@bandc1"),
            line(s.times, expected, "foretold", "@c1"),
            {"type": "scatter", "mode": "markers", "x": s.times, "y": hits, "name": "came", "marker": {"color": "@ink", "size": 7}},
        ] if hits else [],
        layout=axes("", f"orders {s.each}", yaxis={"rangemode": "tozero"}),
        empty="Waits for the first delay bin that closes.",
    )  # fmt: skip


def _calibration(look: Look, launch: Launch) -> Panel:
    deff, blocks = _deff(look), look.blocks.get(launch.id, Blocks())
    everything, late = blocks.between(), blocks.between((_now_ms(look, launch.id) - RECENT_MS) // BLOCK_MS * BLOCK_MS)
    groups, now = (reliability(b.told[0], b.told[1], b.told[2], groups=8, deff=deff) for b in (everything, late))
    value, low, high = ratio(float(everything.told[2].sum()) / MILLION, int(everything.told[1].sum()), deff=deff)
    recent, recent_low, recent_high, orders = _recent(look, launch.id)
    top = max([0.01, *(max(g.said, g.high) for g in (*groups, *now))])
    state: State = "none" if orders < FEWEST_ORDERS else "good" if recent_low <= 1.0 <= recent_high else "warn"
    says = ""
    if groups:
        says = f"So far {number(value)} orders were foretold for each that came ({number(low)} to {number(high)})"
        says += f"; in the bins that closed in the last two days {number(recent)} ({number(recent_low)} to {number(recent_high)})." if orders else "."

    def curve(found: list[Any], name: str, colour: str, size: int) -> dict[str, Any]:
        return {
            "type": "scatter", "mode": "markers+lines", "x": [g.said for g in found], "y": [g.came for g in found], "name": name, "line": {"color": colour, "width": 1.5},
            "marker": {"color": colour, "size": size}, "error_y": {"type": "data", "symmetric": False, "array": [g.high - g.came for g in found],
            "arrayminus": [g.came - g.low for g in found], "color": colour, "thickness": 1, "width": 0}, "hovertemplate": "said %{x:.1%}, came %{y:.1%}<extra>" + name + "</extra>",
        }  # fmt: skip

    return Panel(
        "calibration", "Do probabilities mean what they say?", says,
        "Exposures are put into groups by the probability that their score gave. Right: what was said. Up: how many really ordered, with the range in which the true rate lies "
        "(95 %, allowing for shoppers who are counted more than once). On the dashed line the scores are right; below it they promise too much. Final labels only, so it is as late as the attribution window; the panel on orders is quicker.",
        Table(["period", "exposures", "said", "came", "from", "to"],
              [[name, g.n, g.said, g.came, g.low, g.high] for name, found in (("so far", groups), ("last two days", now)) for g in found]),
        state=state,
        data=[
            line([0, top], [0, top], "perfect", "@muted", line={"dash": "dash", "width": 1}, hoverinfo="skip"),
            curve(groups, "so far", "@c1", 7), *([curve(now, "last two days", "@c4", 6)] if now else []),
        ] if groups else [],
        layout=axes("probability that was said", "share that ordered", xaxis={"tickformat": ".0%", "rangemode": "tozero"}, yaxis={"tickformat": ".0%", "rangemode": "tozero"}),
        empty="Waits for the first final labels.",
        numbers=[("foretold / came, so far", number(value), f"{number(low)} to {number(high)}"), ("last two days", number(recent), f"{number(recent_low)} to {number(recent_high)}")] if groups else (),
    )  # fmt: skip


def _ranking(look: Look, launch: Launch) -> Panel:
    f = figures(look, launch.id)
    blocks = look.blocks.get(launch.id, Blocks())
    names = sorted(name for name in blocks.held if name.startswith("b"))
    days: dict[int, Block] = {}
    for name in names:
        days.setdefault(int(name[1:]) // DAY_MS * DAY_MS, Block.empty()).merge(Block.from_bytes(blocks.held[name]))
    rows = []
    for start, block in sorted(days.items()):
        known, hits = block.matured.astype(np.float64), block.ordered.astype(np.float64)
        scored, foretold = block.scored.astype(np.float64), block.scored_p / MILLION
        rows.append(
            [
                iso(start),
                int(hits.sum()),
                auc(known, hits) if hits.sum() >= 10 else math.nan,
                auc(scored, foretold),
                precision_at(TOP, known, hits) if hits.sum() >= 10 else math.nan,
            ]
        )
    known_auc = f"{f['auc']:.3f} so far" if f["auc"] == f["auc"] else "not known yet"
    says = f"AUC {known_auc}; from the scores alone {f['auc_expected']:.3f} is to be expected." if rows and f["auc_expected"] == f["auc_expected"] else ""
    times = [row[0] for row in rows]
    return Panel(
        "ranking", "How well scores rank shoppers", says,
        "AUC: of a shopper who orders and one who does not, how often the first has the higher score; .5 is a coin. Precision@5 %: how many of the 5 % with the highest scores order. "
        "The dotted line needs no labels: it is what follows from the probabilities if they are calibrated, so it is there at once, and wrong when they are not. Scores are rounded to a tenth of a logit. Days with fewer than ten orders are left out.",
        Table(["day", "orders known", "AUC", "AUC expected before labels", "Precision@5%"], rows),
        data=[line(times, [r[2] for r in rows], "AUC, final labels", "@c1", mode="lines+markers"), line(times, [r[3] for r in rows], "AUC, expected before labels", "@muted", line={"dash": "dot"})] if rows else [],
        layout=axes("", "AUC", yaxis={"range": [0.4, 1.0]}),
        empty="Waits for the first exposures.",
        numbers=[("AUC so far", number(f["auc"], 3), f"expected {number(f['auc_expected'], 3)}"), ("Precision@5 %", percent(f["precision_at_5pct"]), f"expected {percent(f['precision_at_5pct_expected'])}"),
                 ("log-loss", number(f["log_loss"], 4), f"{whole(f['final_orders'])} orders")] if rows else (),
    )  # fmt: skip


def _mixture(look: Look, launch: Launch) -> Panel:
    s = series(look.rows.get(launch.id))
    known = [(t, g[3:]) for t, g in zip(s.times, s.gauges, strict=True) if len(g) == 3 + len(EXPERTS)]
    times = [t for t, _ in known]
    now = dict(zip(EXPERTS, known[-1][1], strict=True)) if known else {}
    best = max(now, key=lambda name: now[name]) if now else ""
    says = (
        f"“{EXPERTS_IN_WORDS[best]}” leads with {percent(now[best], 0)}; {percent(sum(now[name] for name in OWN), 0)} of the weight needs no old line."
        if now
        else ""
    )
    return Panel(
        "mixture", "Which way of transfer is winning", says,
        "Headstart mixes several ways of using what old lines taught, and one that starts from nothing. Each has a weight, which grows when it foretells orders better than the others. "
        "If old lines mislead, the weight moves to the launch's own heads; so transfer can cost at most a few orders' worth.",
        Table(["from", *EXPERTS], [[t, *w] for t, w in known]),
        data=[{**line(times, [w[k] for _, w in known], name, colour, line={"width": 0}), "stackgroup": "one", "fillcolor": colour, "hovertemplate": "%{y:.1%}<extra>" + name + "</extra>"}
              for k, (name, colour) in enumerate(zip(EXPERTS, COLOURS, strict=True))] if known else [],
        layout=axes("", "weight", yaxis={"tickformat": ".0%", "range": [0, 1]}),
        empty="Waits for the first outcome that the launch learns from.",
    )  # fmt: skip


def _origin(look: Look, launch: Launch) -> Panel:
    s = series(look.rows.get(launch.id), least_ms=BLOCK_MS)
    parts = ("s0", "fresh", "level", "mixed")
    words = ("the old lines, when training ended", "what the old lines have taught since", "this launch's own level", "the other ways of transfer")
    rows = [(t, [c[PLACE[p]] / MILLION / c[PLACE["heard"]] for p in parts]) for t, c in zip(s.times, s.counts, strict=True) if c[PLACE["heard"]]]
    times = [t for t, _ in rows]
    says = ""
    if rows:
        old, fresh, level, mixed = rows[-1][1]
        says = f"Old lines alone would say {percent(1 / (1 + math.exp(-old)))}. What came since multiplies those odds by {math.exp(fresh + level + mixed):.2f}; the launch's own level alone by {math.exp(level):.2f}."
    return Panel(
        "origin", "From old lines, and learned since", says,
        "A score adds up: what older product lines taught before the launch, what they have taught since, the launch's own level, and what the other ways of transfer change. "
        "Here are the means over the exposures of each step, as factors on the odds of an order: 1 changes nothing. `headstart explain USER` shows the same of one shopper.",
        Table(["from", *words], [[t, *v] for t, v in rows]),
        data=[line(times, [math.exp(v[k]) for _, v in rows], words[k], colour) for k, colour in ((1, "@c2"), (2, "@c1"), (3, "@c5"))] if rows else [],
        layout=axes("", "factor on the odds", yaxis={"tickformat": ".2f"}),
        empty="Waits for the first exposures.",
        chart_note="The table holds means in logits.",
    )  # fmt: skip


def _drift(look: Look, launch: Launch) -> Panel:
    s = series(look.rows.get(launch.id))
    evidence = [max(g[2], 1e-6) if len(g) > 2 else None for g in s.gauges]
    alarms = [a for a in look.alerts_of(launch.id) if a.kind in ("calibration", "early_funnel", "confirmed")]
    lately = next((a for a in alarms if a.kind == "calibration" and _now_ms(look, launch.id) - a.at_ms <= ALARMED_MS), None)
    if lately is not None:
        says, state = f"An alarm at {when(lately.at_ms)}, for a shift that began about {when(lately.since_ms)}. Done: {lately.done}.", "bad"
    elif evidence:
        says, state = "No shift: the evidence is below the alarm line.", "good"
    else:
        says, state = "", "none"
    first = min((a.at_ms for a in alarms), default=0)
    shown = [a for a in alarms if s.starts and a.at_ms >= s.starts[0]]
    rows: list[list[Any]] = []
    for kind, meaning in KINDS.items():
        if kind != "quality":
            own = [a for a in look.alerts_of(launch.id) if a.kind == kind]
            rows.append([kind, meaning, len(own), iso(own[0].at_ms) if own else None, iso(own[0].since_ms) if own else None, own[0].done if own else None])
    marks = {"type": "scatter", "mode": "markers", "x": [iso(a.at_ms) for a in shown], "y": [1.0] * len(shown), "name": "alerts", "text": [f"{a.kind}: {a.text}" for a in shown],
             "hovertemplate": "%{text}<extra></extra>", "marker": {"symbol": "triangle-down", "size": 12, "color": ["@bad" if a.kind == "calibration" else "@warn" for a in shown]}}  # fmt: skip
    return Panel(
        "drift", "Drift, by kind", says,
        "The line is the evidence that orders no longer come as the scores say, in units of what raises an alarm. The alarm line is set so that a launch on which nothing changes crosses it about once in "
        "100 days. When it is crossed, the launch lets go of part of what it has learned (unless the setting drift_actions is off). The table says of each kind of drift what was found; only the first kind acts.",
        Table(["kind", "what it means", "found", "last at", "since about", "what was done"], rows),
        state=state if first or evidence else "none",  # type: ignore[arg-type]
        data=[line(s.times, evidence, "evidence", "@c1"), line([s.times[0], s.times[-1]], [1, 1], "alarm", "@bad", line={"dash": "dash", "width": 1}, hoverinfo="skip"), *([marks] if shown else [])] if evidence else [],
        layout=axes("", "evidence / alarm", yaxis={"type": "log", "range": [-4, 0.7]}),
        empty="Waits for the first delay bin that closes.",
    )  # fmt: skip


def _who(look: Look, launch: Launch) -> Panel:
    spread = _spread(look, launch.id)
    rows: list[list[Any]] = [[name, _MEANINGS.get(name, ""), own, old, "yes" if name in WHO else "no"] for name, own, old in spread.features]
    shown = [row for row in rows if row[4] == "yes"][:10][::-1]
    says, state = "", "none"
    if spread.differ:
        says, state = f"Other shoppers come than in the first days: {', '.join(map(_short, spread.large)) or 'many small differences'}.", "warn"
    elif spread.enough:
        says, state = f"The shoppers of the last day are like those of the first days; the largest PSI is {shown[-1][2]:.2f} ({_short(shown[-1][0])}).", "good"
    return Panel(
        "shoppers", "Are they the same kind of shoppers?", says,
        f"PSI measures how differently a feature is spread among the exposures of the last day and those of the launch's first days: up to .1 is noise, above {PSI_LARGE} is large. "
        "“Told apart” is how often a classifier can tell a shopper of today from one of the first days: .5 is not at all. Other shoppers do not make scores wrong, so nothing is reset for it; "
        "but if a campaign brought them, you see it here. Features that change because the launch becomes known, or because time passes, are in the table, not in the chart.",
        Table(["feature", "what it is", "PSI against the first days", "PSI against the old lines in training", "about who comes"], rows),
        state=state,  # type: ignore[arg-type]
        data=[
            {"type": "bar", "orientation": "h", "y": [_short(row[0]) for row in shown], "x": [row[2] for row in shown], "name": "PSI",
             "marker": {"color": ["@warn" if row[2] >= PSI_LARGE else "@c1" for row in shown]}, "hovertemplate": "%{x:.2f}<extra></extra>"},
        ] if shown else [],
        layout=axes("PSI against the first days", yaxis={"automargin": True}, xaxis={"range": [0, max(0.5, *(row[2] for row in shown))] if shown else [0, 0.5]},
                    shapes=[{"type": "line", "x0": PSI_LARGE, "x1": PSI_LARGE, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "@warn", "dash": "dash", "width": 1}}], showlegend=False),
        empty=f"Waits for a day and {OWN_FIRST} exposures to compare with.",
        numbers=[("told apart", number(spread.apart), ".50 is not at all"), ("exposures now", whole(spread.now), f"against {whole(spread.then)}")] if shown else (),
    )  # fmt: skip


def _delay(look: Look, launch: Launch) -> Panel:
    head, about = look.heads.get(launch.id), look.about
    if head is None or about is None:
        return Panel(
            "delay",
            "How long orders take",
            "",
            _DELAY_EXPLAINS,
            Table(["delay", "old lines", "this launch", "tried", "hit"], []),
            empty="Waits for the first outcome.",
        )
    labels = ["0", *(span(1000 * edge) for edge in about.edges_s[1:])]
    mine = head.delay.in_use.tolist()
    half = next((label for label, f in zip(labels, mine, strict=True) if f >= 0.5), labels[-1])
    rows = [[labels[k + 1], about.curve[k + 1], mine[k + 1], int(head.tried[k]), int(head.hit[k])] for k in range(len(mine) - 1)]
    return Panel(
        "delay", "How long orders take", f"Half of the orders have come after {half}.", _DELAY_EXPLAINS,
        Table(["delay", "old lines", "this launch", "bins closed", "orders in them"], rows),
        data=[line(labels, about.curve, "old lines", "@muted", line={"dash": "dot"}, mode="lines+markers"), line(labels, mine, "this launch", "@c1", mode="lines+markers")],
        layout=axes("time since the exposure", "orders that have come", yaxis={"tickformat": ".0%", "range": [0, 1.03]}, xaxis={"type": "category"}),
    )  # fmt: skip


_DELAY_EXPLAINS: Final = (
    "Of all orders that come within the attribution window, how many have come after a time. Headstart uses this curve to learn from exposures whose window "
    "is still open, without taking a late order for none. It starts as the old lines' curve and follows the launch's own orders."
)


def _alerts(look: Look, launch: Launch) -> Panel:
    found = look.alerts_of(launch.id)
    rows = [[iso(a.at_ms), a.severity, a.kind, a.text, iso(a.since_ms), a.done] for a in found]
    return Panel(
        "alerts", "Alerts", found[0].text if found else "None so far.",
        "What the detectors have found, the latest first, with what was done about it. The same records go out on the topic `alerts`. A page should wake somebody; a note explains.",
        Table(["at", "severity", "kind", "what", "since about", "done"], rows), wide=True, empty="No alert so far.",
    )  # fmt: skip


def _short(name: str) -> str:
    """A feature's name as a label."""
    return name.replace("_", " ")
