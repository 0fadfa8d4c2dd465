"""How soon drift is found, and how often wrongly: `python bench/detection.py [--seeds N] [--scenario TEXT] [--without-river] [--json FILE]`. SYNTHETIC data, figure 7.

A stream is 2 000 exposures a day, 3.7 % of which order within 7 days, with a day's tide and a shop's delays; scores are right until the drift. A user has
several exposures, and one order often counts for all of them: so rows depend, as on real logs (design effect 2.3); `independent` streams have none of that.
The e-detector hears delay bins as they close, and watches one of four forecasts: the `frozen` score, the launch's `adapted` probability (the `shared`
expert's, whose offset forgets in a day), or a `steady` one (the same offset with a half-life of four weeks), or what was `said` (the adapted probability when
the exposure was scored, with a steady level on top): the last is what `models/watch.py` does. All adapt the delay curve as a launch does. "Any exposure":
the same with beginnings to which outcomes of earlier exposures count too, as the detector once did. Where orders are lost, it is from one moment on, whoever's.
river's detectors hear 7-day labels when they are final, as log-loss or as y − p; each is tuned on streams of its own seeds to the most sensitive
setting of a grid with at least 100 days between false alarms there.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, KSWIN, PageHinkley

from models.delay import default_edges_s, fit_curve
from models.delay_curve import DelayCurve
from models.e_detector import SHARE_POWER, EDetector
from models.fit import design_effect
from models.logistic import sigmoid
from models.offset import DEFAULT_PI, HALF_LIFE_MS, Offset, log_prior
from models.rehearsal import outcomes
from models.rows import Rows

Array = NDArray[np.float64]

DAY_MS = 86_400_000
WINDOW_S = 7 * 86_400.0
EDGES_S = default_edges_s(WINDOW_S)
EXPOSURES_A_DAY = 2000
RATE = 0.037
SPREAD = 0.9
"""Standard deviation of the scores' logits; half of their variance is the user's."""
ROWS_A_USER = 2.4
ALIKE = 0.85
"""Share of a user's rows that fall or stand with one draw: gives the design effect of 2.3."""
DEFF = 2.3
DELAYS = ((0.5, 600.0, 1.0), (0.3, 14_400.0, 0.9), (0.2, 93_600.0, 0.7))
"""(share, median in s, sigma of the logarithm), as in the simulated shop."""
STEADY_HALF_LIFE_MS = 28.0 * DAY_MS
BLOCK = 50
"""Exposures whose mean is one value for KSWIN, which takes 0.1 ms a value."""

SHIFT_DAY, HEARD_DAYS, NULL_DAYS = 7, 14, 50
"""When drift begins; how long after it an alarm counts as having found it; and how long a stream without drift is."""
CLOSED_DAYS = 7
"""How long after the drift the e-detectors listen: what they have not found by then they count as not found."""
WATCHES = ("frozen", "adapted", "steady", "said")
POWERS = {"": SHARE_POWER, ", evidence whole": 0.0, ", evidence / deff": 1.0}
"""Evidence is raised to 1 / deff to this power; other than the one that learners take (`evidence_share`) only for the frozen forecast."""
ANY = "said, any exposure"
COLUMNS = (*WATCHES, ANY, *(f"frozen{how}" for how in POWERS if how))
RIVER = ("ADWIN", "KSWIN", "PageHinkley")
DESIGNED_DAYS = 100.0


@dataclass(frozen=True)
class Scenario:
    """A stream: what happens on `SHIFT_DAY`. `over`: days until the shift is whole; `weekend`: swing of the logit at weekends; `delays`: their factor; `lost`:
    share of the users whose orders stay away from then on, whenever they were scored.
    """

    name: str
    shift: float = 0.0
    over: float = 0.0
    weekend: float = 0.0
    delays: float = 1.0
    level: float = 0.0
    lost: float = 0.0
    independent: bool = False
    days: int = SHIFT_DAY + HEARD_DAYS

    @property
    def quiet(self) -> bool:
        """Whether nothing drifts."""
        return self.days == NULL_DAYS

    def moved(self, day: Array) -> Array:
        """What is added to the true logit at times in days, (N,)."""
        since = day - SHIFT_DAY
        share = np.clip(since / self.over, 0.0, 1.0) if self.over else (since >= 0).astype(np.float64)
        return np.asarray(self.level + self.shift * share + self.weekend * (((day // 1) % 7 >= 5) - 2 / 7))


QUIET, QUIET_INDEPENDENT = Scenario("no drift", days=NULL_DAYS), Scenario("no drift, independent rows", independent=True, days=NULL_DAYS)
DRIFTS = (
    Scenario("abrupt +.5", shift=0.5),
    Scenario("abrupt −.5", shift=-0.5),
    Scenario("gradual +.5, over 4 days", shift=0.5, over=4.0),
    Scenario("gradual −.5, over 4 days", shift=-0.5, over=4.0),
    Scenario("39 % of orders lost, whoever's", lost=0.39),
    Scenario("60 % of orders lost, whoever's", lost=0.6),
    Scenario("abrupt +.5, independent rows", shift=0.5, independent=True),
    Scenario("abrupt −.5, independent rows", shift=-0.5, independent=True),
)
OTHERS = (
    Scenario("weekends .3 above weekdays, always", weekend=0.3),
    Scenario("delays twice as long, as many orders", delays=2.0),
    Scenario("a launch .5 above its score, no drift", level=0.5),
)


@cache
def _delay_table() -> Array:
    rng = np.random.default_rng(20_000)
    part = rng.choice(len(DELAYS), 400_000, p=[share for share, _, _ in DELAYS])
    median, sigma = np.array([m for _, m, _ in DELAYS])[part], np.array([g for _, _, g in DELAYS])[part]
    delay = median * np.exp(sigma * rng.normal(size=len(part)))
    return np.quantile(delay[delay < WINDOW_S], np.linspace(0.0, 1.0, 4001))


@cache
def source_curve() -> Array:
    """F (K + 1,) of delays that have not drifted."""
    return fit_curve(_delay_table(), EDGES_S)


@cache
def _base() -> float:
    """The mean logit for which the mean probability is `RATE`."""
    x = SPREAD * np.random.default_rng(20_001).normal(size=200_000)
    low, high = -10.0, 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float((1 / (1 + np.exp(-middle - x))).mean()) < RATE else (low, middle)
    return low


def draw(scenario: Scenario, seed: int) -> tuple[Rows, Array]:
    """The exposures of a stream in order of time, and their scores s (N,); `Rows.x` is empty of meaning."""
    rng = np.random.default_rng([seed, 7])
    users = round(EXPOSURES_A_DAY * (scenario.days + 2) / ROWS_A_USER)
    rows = rng.geometric(1 / ROWS_A_USER, users)
    user = np.repeat(np.arange(users), rows)
    n = len(user)
    start = np.sort(rng.uniform(-2.0, scenario.days, users))  # some have begun before the stream does
    day = start[user] + rng.exponential(0.7, n) * (np.r_[False, user[1:] == user[:-1]])
    day += 0.8 * np.sin(2 * np.pi * day) / (2 * np.pi)  # at noon nine times as many as at midnight
    s = _base() + SPREAD * (rng.normal(size=users)[user] + rng.normal(size=n)) / np.sqrt(2)
    shared, own = rng.random((2, users)), rng.random((2, n))
    luck, quantile = np.where((rng.random(n) < ALIKE) & (not scenario.independent), shared[:, user], own)
    ordered = luck < 1 / (1 + np.exp(-s - scenario.moved(day)))
    delay = np.interp(quantile, np.linspace(0.0, 1.0, len(_delay_table())), _delay_table())
    delay = np.where(day >= SHIFT_DAY, np.minimum(scenario.delays * delay, WINDOW_S - 1.0), delay)
    if scenario.lost:
        ordered &= (day + delay / 86_400.0 < SHIFT_DAY) | (rng.random(users)[user] >= scenario.lost)
    order = np.flatnonzero((day >= 0) & (day < scenario.days))
    order = order[np.argsort(day[order], kind="stable")]
    delay_s = np.full((len(order), 3), np.inf)
    delay_s[:, 2] = np.where(ordered, delay, np.inf)[order]
    return Rows(
        x=np.zeros((len(order), 1), np.float32), line=np.zeros(len(order), np.int32), lines=("launch",), user=user[order].astype(np.int64),
        ts_ms=np.floor(day[order] * DAY_MS).astype(np.int64), delay_s=delay_s, window_s=WINDOW_S, feature_names=("none",),
    ), s[order]  # fmt: skip


def heard_by_e_detectors(scenario: Scenario, seed: int) -> dict[str, list[float]]:
    """The days on which each watch raises an alarm; independent streams are heard with the frozen forecast alone."""
    rows, s = draw(scenario, seed)
    facts = outcomes(rows, EDGES_S)
    until = scenario.days if scenario.quiet else SHIFT_DAY + CLOSED_DAYS
    facts = facts.part((facts.bin_ >= 0) & (facts.close_ms < until * DAY_MS))
    k, y, s, exposed_ms = facts.bin_, facts.y.astype(np.float64), s[facts.row], rows.ts_ms[facts.row]
    deff = 1.0 if scenario.independent else DEFF
    curve, f = DelayCurve.of(source_curve(), EDGES_S), np.empty((2, len(k)))
    p = {"frozen": sigmoid(s), "adapted": np.empty(len(k)), "steady": np.empty(len(k))}
    levels = (("adapted", Offset.unlearned(), HALF_LIFE_MS), ("steady", Offset.unlearned(), STEADY_HALF_LIFE_MS))
    prior = log_prior(DEFAULT_PI)
    for part in curve.parts(facts.close_ms, source_curve()):
        f[:, part] = curve.in_use[k[part]], curve.in_use[k[part] + 1]
        for name, offset, half_life_ms in () if scenario.independent else levels:
            p[name][part] = offset.learn_many(s[part], f[0, part], f[1, part], y[part], facts.close_ms[part], prior=prior, deff=deff, half_life_ms=half_life_ms)
        curve.counts.add(k[part], facts.close_ms[part], y[part] > 0)
    if not scenario.independent:
        # What a launch had said: its adapted probability when the exposure's first bin closed, minutes after it was scored; and a steady level on top of it.
        said = np.full(len(rows), np.nan)
        said[facts.row[k == 0]] = p["adapted"][k == 0]
        now = np.where(np.isfinite(said[facts.row]), said[facts.row], p["adapted"])
        level, x = Offset.unlearned(), np.log(now / (1.0 - now))
        p["said"] = level.learn_many(x, f[0], f[1], y, facts.close_ms, prior=prior, deff=deff, half_life_ms=STEADY_HALF_LIFE_MS)
    told = {}
    for column in COLUMNS:
        watch, _, how = column.partition(",")
        if scenario.independent and watch != "frozen":
            continue
        share = deff ** -POWERS[f",{how}" if how and column != ANY else ""]
        since_ms = facts.close_ms if column == ANY else exposed_ms
        alarms = EDetector.unlearned().learn_many(p[watch], f[0], f[1], y, facts.close_ms, since_ms, share=share)
        told[column] = [alarm.at_ms / DAY_MS for alarm in alarms]
    return told


GRIDS: dict[str, list[tuple[str, Callable[[], Any]]]] = {
    "ADWIN": [(f"delta {delta:g}", lambda delta=delta: ADWIN(delta=delta)) for delta in (0.3, 0.1, 0.03, 0.01, 2e-3, 5e-4, 1e-4, 1e-5, 1e-7)],
    "KSWIN": [
        (f"alpha {alpha:g}, window {window} of means of {BLOCK}", lambda alpha=alpha, window=window: KSWIN(alpha, window, window // 3, seed=1))
        for window in (120, 240)
        for alpha in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
    ],
    "PageHinkley": [
        (f"delta {delta:g}, threshold {at:g}", lambda delta=delta, at=at: PageHinkley(delta=delta, threshold=at, alpha=1 - 1e-5))
        for delta in (0.005, 0.01, 0.02)
        for at in (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    ],
}
"""Settings from sensitive to deaf."""


def matured(scenario: Scenario, seed: int, stream: str) -> tuple[Array, Array]:
    """When 7-day labels are final, in days, and the values that river's detectors hear of them; (N,) both."""
    rows, s = draw(scenario, seed)
    p, y = sigmoid(s), rows.ordered
    value = y - p if stream == "y − p" else -np.where(y > 0, np.log(p), np.log1p(-p))
    return rows.ts_ms / DAY_MS + WINDOW_S / 86_400.0, value


def heard_by_river(detector: Any, name: str, day: Array, value: Array) -> list[float]:
    """The days on which a river detector raises an alarm."""
    if name == "KSWIN":
        n = len(value) // BLOCK * BLOCK
        day, value = day[BLOCK - 1 : n : BLOCK], value[:n].reshape(-1, BLOCK).mean(axis=1)
    found = []
    for at, one in zip(day.tolist(), value.tolist(), strict=True):
        detector.update(one)
        if detector.drift_detected:
            found.append(at)
    return found


def candidates(job: tuple[str, str, range]) -> list[tuple[str, str, int]]:
    """(name, stream, place) of each family's most sensitive setting with `DESIGNED_DAYS` between false alarms on quiet streams of these seeds."""
    name, stream, seeds = job
    streams = [matured(QUIET, seed, stream) for seed in seeds]
    most = NULL_DAYS * len(seeds) / DESIGNED_DAYS
    found: dict[str, tuple[str, str, int]] = {}
    for place, (label, make) in enumerate(GRIDS[name]):
        family = label.split(", threshold")[0] if name == "PageHinkley" else label.split(", ")[-1] if name == "KSWIN" else name
        if family in found:
            continue
        raised = 0
        for day, value in streams:
            raised += len(heard_by_river(make(), name, day, value))
            if raised > most:
                break
        else:
            found[family] = (name, stream, place)
    return list(found.values())


def run_e(job: tuple[Scenario, int]) -> dict[str, list[float]]:
    """One stream, heard by the e-detectors."""
    return heard_by_e_detectors(*job)


def run_river(job: tuple[Scenario, int, list[tuple[str, str, int]]]) -> list[list[float]]:
    """One stream, heard by river's detectors as chosen; what they hear after `HEARD_DAYS` + the window counts as not found."""
    scenario, seed, chosen = job
    streams = {stream: matured(scenario, seed, stream) for stream in {stream for _, stream, _ in chosen}}
    return [heard_by_river(GRIDS[name][place][1](), name, *streams[stream]) for name, stream, place in chosen]


def choose(pool: ProcessPoolExecutor, seeds: range) -> list[tuple[str, str, int]]:
    """For each of river's detectors the (name, stream, place) that finds abrupt shifts soonest, of the candidates; judged on streams of these seeds."""
    jobs = [(name, stream, seeds) for name in RIVER for stream in ("log-loss", "y − p")]
    found = [one for several in pool.map(candidates, jobs) for one in several]
    trials = [(scenario, seed, found) for scenario in DRIFTS[:2] for seed in seeds[:10]]
    waits = np.mean([[wait(days) or HEARD_DAYS for days in told] for told in pool.map(run_river, trials)], axis=0)
    chosen = []
    for name in RIVER:
        places = [j for j, one in enumerate(found) if one[0] == name]
        if not places:
            raise SystemExit(f"no setting of {name} in the grid keeps {DESIGNED_DAYS:g} days between false alarms")
        chosen.append(found[min(places, key=lambda j: waits[j])])
    return chosen


def wait(days: Iterable[float]) -> float | None:
    """Days from the drift to the first alarm after it, None if there is none within `HEARD_DAYS`."""
    after = [day - SHIFT_DAY for day in days if SHIFT_DAY <= day < SHIFT_DAY + HEARD_DAYS]
    return after[0] if after else None


def between(alarms: int, days: float) -> str:
    """Days between alarms; with none, the days that a rate would have to have for no alarm to be seen once in e times."""
    return f"{days / alarms:.0f}" if alarms else f"> {days:.0f}"


def found_in(waits: list[float | None]) -> str:
    """Median days, those not found counting as the longest, and the share found."""
    median = float(np.median([HEARD_DAYS if one is None else one for one in waits]))
    share = sum(one is not None for one in waits) / len(waits)
    return f"{median:.2f} d ({share:.0%})" if share >= 0.5 else f"not found ({share:.0%})"


def main() -> None:
    """Measure, print a Markdown table, and write what it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="streams of each scenario")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenario", action="append", help="only those whose name contains this; may be given again")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("var/bench/detection.json"))
    parser.add_argument("--without-river", action="store_true", help="the e-detector alone")
    options = parser.parse_args()
    began, seeds = time.perf_counter(), range(options.first_seed, options.first_seed + options.seeds)
    scenarios = [one for one in (QUIET, QUIET_INDEPENDENT, *DRIFTS, *OTHERS) if not options.scenario or any(text in one.name for text in options.scenario)]
    told: dict[str, dict[str, list[list[float]]]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        chosen = [] if options.without_river else choose(pool, range(10_000, 10_012))
        labels = [f"{name}, 7-day {stream}" for name, stream, _ in chosen]
        for scenario in scenarios:
            e = list(pool.map(run_e, [(scenario, seed) for seed in seeds]))
            river = list(pool.map(run_river, [(scenario, seed, chosen) for seed in seeds]))
            told[scenario.name] = {column: [one[column] for one in e] for column in e[0]}
            told[scenario.name] |= {label: [one[j] for one in river] for j, label in enumerate(labels)}
    rows, s = draw(QUIET, 0)
    deff = design_effect(rows.ordered, sigmoid(s), rows.user, rows.line)
    columns = [*COLUMNS, *labels]
    print(f"{options.seeds} streams a row, {EXPOSURES_A_DAY} exposures a day, {rows.ordered.mean():.1%} order, design effect {deff:.1f}; SYNTHETIC.")
    for (name, _, place), label in zip(chosen, labels, strict=True):
        print(f"{label}: {GRIDS[name][place][0]}")
    print("\n| | " + " | ".join(columns) + " |\n| --- |" + " --: |" * len(columns))
    days = float(NULL_DAYS * options.seeds)
    for scenario in scenarios:
        heard = [told[scenario.name].get(column) for column in columns]
        if scenario.quiet:
            what, cells = "days between alarms", ["" if one is None else between(sum(map(len, one)), days) for one in heard]
        elif scenario in DRIFTS:
            what, cells = "median days to find (share)", ["" if one is None else found_in([wait(found) for found in one]) for one in heard]
        else:
            what = f"an alarm from day {SHIFT_DAY} to {SHIFT_DAY + HEARD_DAYS}"
            cells = ["" if one is None else f"{np.mean([wait(found) is not None for found in one]):.0%}" for one in heard]
        print(f"| {scenario.name}: {what} | " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - began:.0f} s")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "seeds": options.seeds, "design_effect": deff, "river": {label: GRIDS[name][place][0] for (name, _, place), label in zip(chosen, labels, strict=True)},
        "scenarios": [asdict(scenario) for scenario in scenarios], "alarm_days": told,
    }  # fmt: skip
    options.json.write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
