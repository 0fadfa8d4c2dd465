"""The panels of a launch: is it going well, can the scores be trusted, who comes, and where the scores come from."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from models.chronicle import BLOCK_MS, PLACE, Block, Blocks
from models.experts import EXPERTS
from models.sketches import MILLION, auc, precision_at, ratio
from streams.explaining import EXPERTS_IN_WORDS
from streams.panels import DAY_MS, ORDER_COUNTS, Panel, Table, Verdict, axes, iso, line, number, percent, series, span, total, when, whole
from streams.panels_shop import AT_WORK, WHEN_WORKED
from streams.panels_shoppers import shoppers, shoppers_panel
from streams.panels_trust import calibration_panel, chance_axis, drift_panel, orders_panel
from streams.records import SHARED, Launch
from streams.trust import came, design_effect, trust
from streams.view import Look

TOP: Final = 0.05
OWN: Final = ("feature", "scratch")
"""Experts that take no belief from old lines."""
FACTORS: Final = (0.4, 2.5)
"""What an axis of factors on the odds shows at least."""
COLOURS: Final = ("@c1", "@c2", "@c3", "@c4", "@c5", "@c6", "@c7", "@c8")


def verdicts(look: Look, launch: Launch) -> list[Verdict]:
    """Return the answers to what people ask of a launch first."""
    judged = trust(look, launch.id)
    return [_going(look, launch), Verdict("Can the scores be trusted?", judged.answer, judged.why, judged.state, "calibration"), shoppers(look, launch)]


def figures(look: Look, launch: str) -> dict[str, Any]:
    """Return a launch's figures so far, as they are shown: counts, rates, calibration, ranking.

    `orders` are all since the launch, `final_orders` those of the `final` exposures, whose attribution window is over. `came_foretold` is orders that came over
    orders that were foretold, in all delay bins that have closed; `final_came_foretold` the same on final labels.
    """
    counts = total(look.rows.get(launch)) or [0] * len(PLACE)
    block = look.blocks.get(launch, Blocks()).between()
    get = {name: counts[place] for name, place in PLACE.items()}
    so_far = came(look, launch)
    value, low, high = ratio(get["ordered"], get["predicted"] / MILLION, deff=design_effect(look))
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
        "came_foretold": so_far.value,
        "came_foretold_low": so_far.low,
        "came_foretold_high": so_far.high,
        "final_came_foretold": value,
        "final_came_foretold_low": low,
        "final_came_foretold_high": high,
        "auc": auc(n, hits),
        "precision_at_5pct": precision_at(TOP, n, hits),
        "log_loss": get["loss"] / MILLION / get["matured"] if get["matured"] else math.nan,
        "auc_expected": auc(scored, foretold),
        "precision_at_5pct_expected": precision_at(TOP, scored, foretold),
    }


def _going(look: Look, launch: Launch) -> Verdict:
    question, panel = "Is it going well?", "funnel"
    f = figures(look, launch.id)
    if not f["final"]:
        return Verdict(question, "Too early to say", f"{whole(f['exposures'])} exposures so far, and no label is final yet.", "none", panel)
    old = total(look.rows.get(SHARED)) or [0] * len(PLACE)
    usual = old[PLACE["ordered"]] / old[PLACE["matured"]] if old[PLACE["matured"]] else math.nan
    why = f"{percent(f['conversion'])} of {whole(f['final'])} exposures ended in an order"
    if math.isnan(usual):
        return Verdict(question, f"{whole(f['final_orders'])} exposures with an order", why + ".", "none", panel)
    why += f"; of the old lines' {percent(usual)}."
    spread = 1.96 * math.sqrt(design_effect(look) * max(usual * (1 - usual), 1e-9) / f["final"])
    if f["conversion"] > usual + spread:
        return Verdict(question, "Better than the old lines", why, "good", panel)
    if f["conversion"] < usual - spread:
        return Verdict(question, "Below the old lines", why, "warn", panel)
    return Verdict(question, "Like the old lines", why, "good", panel)


def panels(look: Look, launch: Launch) -> list[Panel]:
    """Return a launch's panels, in the order in which they are shown; uplift is apart, since it is read from the topic."""
    return [
        _funnel(look, launch), _activity(look, launch), orders_panel(look, launch), calibration_panel(look, launch), drift_panel(look, launch),
        shoppers_panel(look, launch), _ranking(look, launch), _mixture(look, launch), _origin(look, launch), _delay(look, launch), _alerts(look, launch),
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
    orders = came(look, launch.id).orders
    if mine[0] and orders > mine[3]:
        says += f" Here are {whole(mine[3])} of the {whole(orders)} with an order: those whose {span(1000 * launch.window_s)} are over."
    return Panel(
        "funnel", "From a look to an order", says,
        f"An exposure is a shopper's first look at the launch in a visit. It is followed for {span(1000 * launch.window_s)}; here are those whose time is over. "
        f"{ORDER_COUNTS} "
        "The pale bars are the old lines' share at the same step, so you see where the launch loses shoppers that others keep. Only one in eight of the old lines' exposures is looked at for this.",
        Table(["step", "number", "share of exposures", "old lines' share"], rows),
        data=[
            {"type": "bar", "orientation": "h", "y": labels, "x": usual, "name": "old lines", "marker": {"color": "@faint"}, "hovertemplate": "%{x:.1%}<extra>old lines</extra>"},
            {"type": "bar", "orientation": "h", "y": labels, "x": shares, "name": "this launch", "marker": {"color": "@c1"},
             "text": [f"{whole(v)} · {percent(s)}" for v, s in zip(mine, shares, strict=True)], "textposition": "auto", "hovertemplate": "%{x:.1%}<extra>this launch</extra>"},
        ] if mine[0] else [],
        layout=axes("share of exposures", xaxis={"tickformat": ".0%", "range": [0, 1.05]}, yaxis={"autorange": "reversed", "automargin": True}, bargap=0.25),
        empty="Waits for the first exposure whose attribution window is over.",
    )  # fmt: skip


def _activity(look: Look, launch: Launch) -> Panel:
    s = series(look.traffic.get(launch.id))
    kinds = ("browse", "click", "cart", "order")
    foretold = [v / MILLION / max(1, sum(row[:4])) for v, row in zip(s.column(4), s.counts, strict=True)]
    top = chance_axis(look, max(foretold, default=0.0))[1]
    return Panel(
        "activity", "Events and scores as they come",
        f"{whole(sum(map(sum, (row[:4] for row in s.counts))))} events were scored; in the last {s.by} that had any, from {when(s.starts[-1])} UTC: {whole(sum(s.counts[-1][:4]))}." if s.starts else "",
        "How many events of the launch arrived, by kind, and the mean chance of an order that their scores gave. Each valid event gets a score. "
        + WHEN_WORKED,
        Table(["from", *kinds, "mean probability"], [[t, *row[:4], f] for t, row, f in zip(s.times, s.counts, foretold, strict=True)]),
        data=[
            *({"type": "bar", "x": s.times, "y": s.column(k), "name": kind, "marker": {"color": colour}} for k, (kind, colour) in enumerate(zip(kinds, ("@c1", "@c2", "@c3", "@c4"), strict=True))),
            line(s.times, foretold, "mean probability", "@ink", yaxis="y2", line={"width": 1.5, "dash": "dot"}),
        ] if s.starts else [],
        layout=axes(AT_WORK, f"events {s.each}", barmode="stack", yaxis2={"overlaying": "y", "side": "right", "tickformat": ".0%", "range": [0.0, top], "tickmode": "linear", "dtick": top / 5, "showgrid": False, "title": {"text": ""}}),
        empty="Waits for the first event of the launch.",
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
        "The dotted line needs no labels: it is what follows from the probabilities if they are calibrated, so it is there at once, and wrong when they are not. Scores are rounded to a tenth of a logit. Days with fewer than ten exposures with an order are left out. "
        "Log-loss says how wrong the probabilities were on the whole: 0 is perfect, and only figures of the same exposures can be compared.",
        Table(["day", "with an order", "AUC", "AUC expected before labels", "Precision@5%"], rows),
        data=[line(times, [r[2] for r in rows], "AUC, final labels", "@c1", mode="lines+markers"), line(times, [r[3] for r in rows], "AUC, expected before labels", "@muted", line={"dash": "dot"})] if rows else [],
        layout=axes("", "AUC", yaxis={"range": [0.4, 1.0]}),
        empty="Waits for the first exposures.",
        numbers=[("AUC so far", number(f["auc"], 3), f"expected {number(f['auc_expected'], 3)}"), ("Precision@5 %", percent(f["precision_at_5pct"]), f"expected {percent(f['precision_at_5pct_expected'])}"),
                 ("log-loss", number(f["log_loss"], 4), f"lower is better; {whole(f['final_orders'])} exposures with an order")] if rows else (),
    )  # fmt: skip


def _mixture(look: Look, launch: Launch) -> Panel:
    s = series(look.rows.get(launch.id))
    known = [(t, g[3:]) for t, g in zip(s.times, s.gauges, strict=True) if len(g) == 3 + len(EXPERTS)]
    times = [t for t, _ in known]
    now = dict(zip(EXPERTS, known[-1][1], strict=True)) if known else {}
    best = max(now, key=lambda name: now[name]) if now else ""
    says = (
        f"“{best}” ({EXPERTS_IN_WORDS[best]}) leads with {percent(now[best], 0)} of the weight. {percent(sum(now[name] for name in OWN), 0)} is with ways that need no old line ({' and '.join(OWN)})."
        if now
        else ""
    )
    return Panel(
        "mixture", "Which way of transfer is winning", says,
        "Headstart mixes several ways of using what old lines taught, and one that starts from nothing. Each has a weight, which grows when it foretells orders better than the others. "
        "If old lines mislead, the weight moves to the launch's own heads; so transfer can cost at most a few orders' worth. The ways: "
        + "; ".join(f"{name}: {EXPERTS_IN_WORDS[name]}" for name in EXPERTS) + ".",
        Table(["from", *EXPERTS], [[t, *w] for t, w in known]),
        data=[{**line(times, [w[k] for _, w in known], name, colour, line={"width": 0}), "stackgroup": "one", "fillcolor": colour, "hovertemplate": "%{y:.1%}<extra>" + f"{name}: {EXPERTS_IN_WORDS[name]}" + "</extra>"}
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
    factors = [math.exp(v[k]) for _, v in rows for k in (1, 2, 3)] or [1.0]
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
        layout=axes("", "factor on the odds", yaxis={"tickformat": ".1f", "range": [min(FACTORS[0], *factors), max(FACTORS[1], *factors)]}),
        empty="Waits for the first exposures.",
        chart_note="The table holds means in logits.",
    )  # fmt: skip


def _delay(look: Look, launch: Launch) -> Panel:
    head, about = look.heads.get(launch.id), look.about
    if head is None or about is None:
        return Panel(
            "delay",
            "How long orders take",
            "",
            _DELAY_EXPLAINS,
            Table(["delay", "old lines", "this launch", "bins closed", "with an order"], []),
            empty="Waits for the first outcome.",
        )
    labels = ["0", *(span(1000 * edge) for edge in about.edges_s[1:])]
    mine = head.delay.in_use.tolist()
    at = next(k for k, f in enumerate(mine) if f >= 0.5)
    says = f"Of 100 orders {100 * mine[at]:.0f} have come after {labels[at]}" + (f", {100 * mine[at - 1]:.0f} after {labels[at - 1]}." if at > 1 else ".")
    rows = [[labels[k + 1], about.curve[k + 1], mine[k + 1], int(head.tried[k]), int(head.hit[k])] for k in range(len(mine) - 1)]
    return Panel(
        "delay", "How long orders take", says, _DELAY_EXPLAINS,
        Table(["delay", "old lines", "this launch", "bins closed", "with an order"], rows),
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
