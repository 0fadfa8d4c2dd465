"""The panels of the overview: does the data flow, what was refused, who works, and what has been found anywhere."""

from __future__ import annotations

import math
from typing import Any, Final

from features.events import REASONS
from models.chronicle import PLACE
from streams.beats import ALIVE_MS
from streams.panels import DAY_MS, Panel, State, Table, Verdict, axes, iso, line, named, percent, series, short, span, total, when, whole
from streams.records import SHARED, SHOP
from streams.seen import SHOP_COLUMNS
from streams.view import Look

BEHIND_MS: Final = 60_000
LATE_MS: Final = 600_000
REFUSED_WARN, REFUSED_BAD = 0.001, 0.01
AT_WORK: Final = "when they were worked"
WHEN_WORKED: Final = "Events are counted when they are worked, whatever their own time: a backlog appears at the time at which it is caught up, and so does not lie beside the orders of its days."


def flow(look: Look, wall_ms: int, lags: dict[int, int]) -> Verdict:
    """Return whether the data flows; `lags`: {partition: records on Kafka that are not worked off}, as far as known."""
    question, panel = "Does the data flow?", "flow"
    alive = look.alive(wall_ms)
    owned = {beat.partition for worker in alive for beat in worker.partitions}
    orphans = sorted(set(look.cursors) - owned)
    behind = sum(lags.values())
    if not look.live:
        if not look.now_ms:
            reading = f"{_workers_in_words(len(alive))} running; nothing has been worked yet." if alive else "No worker is running yet: they are starting."
            return Verdict(question, "The replay has not begun", reading, "none", panel)
        if not alive:
            return Verdict(question, "The replay stands at its end", f"Its clock shows {when(look.now_ms)}; no worker is running.", "none", panel)
        return Verdict(
            question,
            "Yes: a replay",
            f"Its clock shows {when(look.now_ms)}; {_workers_in_words(len(alive))}, {whole(behind)} records still to be worked.",
            "good",
            panel,
        )
    if not alive:
        last = f"The last event time is {when(look.now_ms)}." if look.now_ms else "No event has been worked yet."
        return Verdict(question, "No: no worker is alive", f"No sign of life for {span(ALIVE_MS)}. {last}", "bad", panel)
    if orphans:
        return Verdict(question, "Not all of it", f"No worker has partitions {', '.join(map(str, orphans[:8]))}.", "bad", panel)
    slowest = min(look.times(wall_ms).values(), default=wall_ms)
    late = max(0, wall_ms - slowest)
    told = f"{_workers_in_words(len(alive))}, {whole(behind)} records waiting, the slowest partition is {span(late)} behind the clock."
    if late > LATE_MS:
        return Verdict(question, "Late", told, "bad", panel)
    return Verdict(question, "With a delay" if late > BEHIND_MS else "Yes", told, "warn" if late > BEHIND_MS else "good", panel)


def pulse(look: Look, wall_ms: int) -> tuple[State, str]:
    """Return whether anybody works at this moment, for the header of each page: its colour and words."""
    alive = len(look.alive(wall_ms))
    if alive:
        return "good", f"{_workers_in_words(alive)} running"
    return "bad" if look.live else "none", "no worker is running"


def _workers_in_words(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


def refused(look: Look) -> Verdict:
    """Return whether events are fit to be used, of those that were worked in the last day."""
    question, panel = "Are the events fit for use?", "rejects"
    counts = total(look.traffic.get(SHOP), since_ms=look.now_ms - DAY_MS)
    if not counts or not counts[0]:
        return Verdict(question, "No event worked in the last day" if total(look.traffic.get(SHOP)) else "No event yet", "", "none", panel)
    share = sum(counts[1:]) / counts[0]
    told = f"{whole(sum(counts[1:]))} of {whole(counts[0])} records that were worked in the last day were refused ({percent(share, 2)})."
    state: State = "bad" if share >= REFUSED_BAD else "warn" if share >= REFUSED_WARN else "good"
    return Verdict(question, {"good": "Yes", "warn": "Some are refused", "bad": "Many are refused"}[state], told, state, panel)


def panels(look: Look, wall_ms: int, lags: dict[int, int]) -> list[Panel]:
    """Return the overview's panels."""
    return [_throughput(look), _flow(look, wall_ms, lags), _rejects(look), _lines(look), _workers(look, wall_ms), _alerts(look)]


def _throughput(look: Look) -> Panel:
    names = [SHARED, *(name for name in look.launches if name in look.traffic)]
    longest = max((series(look.traffic.get(name)).step_ms for name in names), default=0)
    all_series = {name: series(look.traffic.get(name), least_ms=longest) for name in names}
    times = sorted({t for s in all_series.values() for t in s.times})
    by = next((s.each for s in all_series.values() if s.starts), "an hour")
    values = {name: dict(zip(s.times, (sum(row[:4]) for row in s.counts), strict=True)) for name, s in all_series.items()}
    words = {SHARED: "old lines"}
    rows = [[t, *(values[name].get(t, 0) for name in names)] for t in times]
    return Panel(
        "throughput", "Events", f"{whole(sum(cursor.totals.applied for cursor in look.cursors.values()))} valid events so far." if times else "",
        "How many valid events came, those of a backfill too, for the old lines together and for each launch; each that came live was scored. An event that belongs to two launches is in both. "
        + WHEN_WORKED,
        Table(["from", *(words.get(name, name) for name in names)], rows),
        data=[{"type": "bar", "x": times, "y": [values[name].get(t, 0) for t in times], **named(words.get(name, name), "%{x}: %{y}"), "marker": {"color": "@faint" if name == SHARED else f"@c{1 + (k - 1) % 8}"}}
              for k, name in enumerate(names)] if times else [],
        layout=axes(AT_WORK, f"events {by}", barmode="stack"), empty="Waits for the first event.",
    )  # fmt: skip


def _flow(look: Look, wall_ms: int, lags: dict[int, int]) -> Panel:
    owner = {beat.partition: worker.worker for worker in look.alive(wall_ms) for beat in worker.partitions}
    times = look.times(wall_ms)
    rows = []
    for p, cursor in sorted(look.cursors.items()):
        t = cursor.totals
        rows.append(
            [p, owner.get(p, "none"), iso(times[p]) if times[p] else None, lags.get(p), t.read, t.applied, t.duplicate, t.rejected, t.exposures, t.late_orders]
        )
    verdict = flow(look, wall_ms, lags)
    known = [row for row in rows if row[3] is not None]
    return Panel(
        "flow", "Lag by partition", verdict.why,
        "Lag: records that lie on Kafka and are not worked off yet. The clock of a partition is the event time up to which everything is worked. Read = applied + duplicates + refused, always. "
        "A late order is one that came when the delay bin it belongs to had been closed already: it counts in a later one. A partition without a worker stands still.",
        Table(["partition", "worker", "its clock", "lag", "read", "applied", "duplicates", "refused", "exposures", "late orders"], rows),
        state=verdict.state,
        data=[{"type": "bar", "x": [str(row[0]) for row in known], "y": [row[3] for row in known], "name": "records waiting", "marker": {"color": "@c1"}}] if known else [],
        layout=axes("partition", "records waiting", xaxis={"type": "category"}, yaxis={"rangemode": "tozero"}, showlegend=False),
        empty="No partition has been worked yet." if not rows else "The lag is not known: no worker is alive, and no broker was given.",
    )  # fmt: skip


def _rejects(look: Look) -> Panel:
    s = series(look.traffic.get(SHOP))
    totals = [sum(column) for column in zip(*s.counts, strict=True)] if s.counts else [0] * len(SHOP_COLUMNS)
    there = [k for k in range(1, len(SHOP_COLUMNS)) if totals[k]]
    rows = []
    for k in sorted(there, key=lambda k: -totals[k]):
        reason = SHOP_COLUMNS[k]
        examples = look.examples.get(reason, [])
        rows.append([reason, totals[k], REASONS[reason], examples[-1].detail if examples else "", examples[-1].began if examples else "",
                     f"{examples[-1].topic}[{examples[-1].partition}] at {examples[-1].offset}" if examples else ""])  # fmt: skip
    says = f"{whole(sum(totals[1:]))} of {whole(totals[0])} records were refused ({percent(sum(totals[1:]) / totals[0], 2)})." if totals[0] else ""
    return Panel(
        "rejects", "Refused events, by reason", says,
        "A record that cannot be used is sent back on the topic `rejected`, byte for byte, with the reason. Here is how many, and the latest example of each reason. Most reasons are mended in the producer that sent it. "
        + WHEN_WORKED,
        Table(["reason", "records", "what it means", "latest detail", "latest example", "where it lay"], rows),
        state=refused(look).state,
        data=[{"type": "bar", "x": s.times, "y": s.column(k), "name": SHOP_COLUMNS[k], "marker": {"color": f"@c{1 + i % 8}"}} for i, k in enumerate(there)],
        layout=axes(AT_WORK, f"refused {s.each}", barmode="stack"), empty="Nothing was refused.",
    )  # fmt: skip


def _lines(look: Look) -> Panel:
    rows: list[list[Any]] = []
    for name in [*look.launches, SHARED]:
        counts = total(look.rows.get(name))
        if counts and counts[PLACE["heard"]]:
            get = {key: counts[place] for key, place in PLACE.items()}
            final = get["matured"]
            rows.append(["old lines" if name == SHARED else name, get["heard"], final, get["ordered"], get["ordered"] / final if final else math.nan,
                         get["ordered"] / (get["predicted"] / 1e6) if get["predicted"] else math.nan])  # fmt: skip
    names = [row[0] for row in rows]
    return Panel(
        "launches", "Launches beside the old lines", "",
        "An exposure is a shopper's first look at a product or launch in a visit. Here are those whose first delay bin (the first part of the time in which an order counts) has closed, those that are final (all of that time is over), and "
        "those of these with an order. Came / foretold, final: how many of these there were over how many were foretold, which should be near 1; the figure on a launch's card counts closed delay bins too, so it is sooner and differs a little. "
        "Of the old lines one exposure in eight is looked at, and what closed before their training ended is left out: an exposure of that time counts only when it becomes final, so at first they may have more final exposures than exposures.",
        Table(["launch", "exposures", "final", "final with an order", "order rate", "came / foretold, final"], rows),
        data=[{"type": "bar", "orientation": "h", "y": names, "x": [r[4] for r in rows], "name": "order rate", "marker": {"color": ["@faint" if r[0] == "old lines" else "@c1" for r in rows]},
               "text": [percent(r[4]) for r in rows], "textposition": "auto", "hovertemplate": "%{y}: %{x:.1%}<extra></extra>"}] if rows else [],
        layout=axes("order rate of final exposures", xaxis={"tickformat": ".0%"}, showlegend=False,
                    yaxis={"automargin": True, "autorange": "reversed", "type": "category", "tickmode": "array", "tickvals": names, "ticktext": [short(name) for name in names]}),
        empty="Waits for the first exposure.",
    )  # fmt: skip


def _workers(look: Look, wall_ms: int) -> Panel:
    alive, heard_of = look.alive(wall_ms), look.heard_of(wall_ms)
    rows = [[b.worker, len(b.partitions), ", ".join(map(str, b.learns)) or "–", round(b.rss_bytes / 1_048_576), round(b.cpu_s, 1), span(max(0, wall_ms - b.started_ms)),
             span(max(0, wall_ms - b.at_ms)) + " ago", b.lost, "alive" if b in alive else "silent"] for b in heard_of]  # fmt: skip
    return Panel(
        "workers", "Workers", f"{len(alive)} alive of {len(heard_of)} that were heard of in the last hour." if heard_of else "No worker has been heard of.",
        "Every worker writes a sign of life into Redis every two seconds. One that is silent for ten seconds is taken for dead; its partitions move to the others. "
        "“Lost” counts records that Kafka had deleted before they were read: it should be 0.",
        Table(["worker", "partitions", "learns", "memory (MiB)", "CPU (s)", "running for", "last sign", "lost", "state"], rows),
        state="good" if alive else "none", wide=True, empty="No worker has been heard of.",
    )  # fmt: skip


def _alerts(look: Look) -> Panel:
    rows = [[iso(a.at_ms), a.severity, "old lines" if a.launch_id == SHARED else a.launch_id, a.kind, a.text, a.done] for a in look.alerts[:50]]
    return Panel(
        "alerts", "Alerts", look.alerts[0].text if look.alerts else "None so far.",
        "The latest of all launches, of the old lines together, and of the quality gate. The topic `alerts` holds them all.",
        Table(["at", "severity", "where", "kind", "what", "done"], rows), wide=True, empty="No alert so far.",
    )  # fmt: skip


def spark(look: Look, launch: str) -> dict[str, Any]:
    """Return what a launch's card draws: exposures over time."""
    s = series(look.rows.get(launch))
    return line(s.times, s.column(PLACE["heard"]) if s.starts else [], "exposures", "@c1", line={"width": 1.5}) | {
        "fill": "tozeroy",
        "fillcolor": "@bandc1",
        "hoverinfo": "skip",
    }
