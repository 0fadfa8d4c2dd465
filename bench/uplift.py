"""Whether `headstart uplift` keeps its word when somebody looks after every 500 users: `python bench/uplift.py [aa|power|orders] [--campaigns N] [--json FILE]`.

`aa`: campaigns that change nothing (SYNTHETIC users); the share in which each method ever says otherwise must be at most 5 %. Beside them a plain z-test.
`power`: campaigns with a true lift; how many users until each method has found it in half of them. Without a word, both.
`orders`: a table of how many users must have ordered, of both arms together, until the e-process tells a lift, by holdout and lift: whatever the order rate is.

A user has a score, whose order rate it is, and comes back with a chance: a later visit can still turn a user who entered without an order into one who
has ordered, as in a real launch. With `drift` the order rate falls to a half during the campaign.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.sequential import concentration, log_e_binomial
from models.uplift import SAMPLE_RATIO_ALPHA, SAMPLE_RATIO_SD, Moments, difference, lift_of

HOLDOUTS = (0.05, 0.1, 0.2, 0.5)
LIFTS = {0.1: 60_000, 0.2: 20_000, 0.4: 8_000}  # the orders that are waited for at most
PEEK = 500
ALPHA = 0.05
AT_ONCE = 2_000_000
METHODS = ("e-process", "interval", "with CUPED", "plain z-test")


@dataclass(frozen=True)
class Campaign:
    """One kind of campaign: the share held out, orders per first visit, the lift, how many users come, how often they come back, and whether the rate falls."""

    holdout: float
    rate: float
    users: int
    lift: float = 0.0
    returning: float = 0.0
    drift: bool = False


AA = (
    Campaign(0.5, 0.04, 20_000),
    Campaign(0.1, 0.04, 20_000),
    Campaign(0.1, 0.04, 20_000, returning=0.5, drift=True),
    Campaign(0.5, 0.15, 20_000, returning=0.5),
    Campaign(0.05, 0.01, 20_000),
    Campaign(0.5, 0.04, 100_000, returning=0.3),
)
POWER = (
    Campaign(0.5, 0.04, 40_000, lift=0.3, returning=0.3),
    Campaign(0.1, 0.04, 120_000, lift=0.3, returning=0.3),
    Campaign(0.5, 0.04, 300_000, lift=0.1, returning=0.3),
    Campaign(0.1, 0.04, 800_000, lift=0.1, returning=0.3),
)


def simulate(kind: Campaign, campaigns: int, seed: int) -> Moments:
    """Return what is known after every `PEEK` users, (2, campaigns, peeks) each."""
    rng = np.random.default_rng(seed)
    peeks = kind.users // PEEK
    sums = np.zeros((5, 2, campaigns, peeks))
    block = max(1, AT_ONCE // (campaigns * PEEK))
    for first in range(0, peeks, block):
        last = min(first + block, peeks)
        shape = (campaigns, last - first, PEEK)
        arm = (rng.random(shape, np.float32) >= kind.holdout).astype(np.int64)
        x = rng.beta(0.8, 0.8 * (1.0 / kind.rate - 1.0), shape)
        falls = np.linspace(1.0, 0.5, peeks)[first:last, None] if kind.drift else 1.0
        chance = np.minimum(x * falls * (1.0 + kind.lift * arm), 1.0)
        at = np.broadcast_to(np.arange(first, last)[:, None], shape)
        # Each further visit is some peeks later, has the same chance of an order, and counts if none came before.
        when = np.where(rng.random(shape, np.float32) < chance, at, peeks)
        comes, later = np.ones(shape, np.bool_), at
        while kind.returning and (comes := comes & (rng.random(shape, np.float32) < kind.returning)).any():
            later = later + 1 + rng.integers(0, 4, shape)
            when = np.where(comes & (rng.random(shape, np.float32) < chance), np.minimum(when, later), when)
        cell = (arm * campaigns + np.arange(campaigns)[:, None, None]) * peeks
        ordered = when < peeks
        for i, weight in enumerate((None, None, x, x * x, x)):
            mine = ordered if i in (1, 4) else slice(None)
            place = ((cell + when) if i in (1, 4) else (cell + at))[mine].ravel()
            told = None if weight is None else weight[mine].ravel()
            sums[i] += np.bincount(place, told, minlength=sums[i].size).reshape(sums[i].shape)
    return Moments(*sums.cumsum(axis=3))


def says(m: Moments, holdout: float) -> dict[str, NDArray[np.bool_]]:
    """Return {method: whether it tells a difference}, (campaigns, peeks) each."""
    found = {"e-process": lift_of(m.y, holdout=holdout, alpha=ALPHA)[0] >= -math.log(ALPHA)}
    for name, adjusted in (("interval", False), ("with CUPED", True)):
        d = difference(m, adjusted=adjusted, alpha=ALPHA)
        found[name] = np.abs(d.value) > d.margin
    with np.errstate(divide="ignore", invalid="ignore"):
        rate, pooled = m.y / m.n, m.y.sum(axis=0) / m.n.sum(axis=0)
        z = (rate[1] - rate[0]) / np.sqrt(pooled * (1.0 - pooled) * (1.0 / m.n).sum(axis=0))
    found["plain z-test"] = np.abs(z) > 1.959964
    return found


def false_alarms(kind: Campaign, campaigns: int, seed: int) -> dict[str, Any]:
    """Return the share of campaigns without effect in which each method ever tells one, and the sample-ratio check ever fails."""
    m = simulate(kind, campaigns, seed)
    ever = {name: float(told.any(axis=1).mean()) for name, told in says(m, kind.holdout).items()}
    log_e = log_e_binomial(m.n[0], m.n.sum(axis=0), kind.holdout, prior=kind.holdout, c=concentration(kind.holdout, SAMPLE_RATIO_SD))
    reduction = difference(m, adjusted=True).reduction[:, -1]
    return {**ever, "sample ratio": float((log_e >= -math.log(SAMPLE_RATIO_ALPHA)).any(axis=1).mean()), "variance reduction": float(reduction.mean())}


def users_to_find(kind: Campaign, campaigns: int, seed: int) -> dict[str, Any]:
    """Return the median users until each method tells the difference (null: not in half of the campaigns), and a single look's users for 80 %."""
    m = simulate(kind, campaigns, seed)
    out: dict[str, Any] = {}
    for name, told in says(m, kind.holdout).items():
        if name != "plain z-test":
            users = np.where(told.any(axis=1), (told.argmax(axis=1) + 1.0) * PEEK, np.inf)
            median = float(np.median(users))
            out[name] = median if math.isfinite(median) else None
            out[f"{name}, found"] = float(told.any(axis=1).mean())
    held, treated = (m.y / m.n).mean(axis=1)[:, -1]
    variance = held * (1 - held) / kind.holdout + treated * (1 - treated) / (1 - kind.holdout)
    out["one look, 80 %"] = float((1.959964 + 0.841621) ** 2 * variance / (treated - held) ** 2)
    return out


def orders_to_find(campaigns: int, seed: int) -> None:
    """Print the median orders, and those that suffice in nine campaigns of ten, until a lift is told by somebody who looks after every 20."""
    rng = np.random.default_rng(seed)
    print("| holdout | " + " | ".join(f"lift {lift:.0%}" for lift in LIFTS) + " |\n| --: |" + " --: |" * len(LIFTS))
    for holdout in HOLDOUTS:
        cells = []
        for lift, most in LIFTS.items():
            treated = (1 - holdout) * (1 + lift)
            arms = rng.random((campaigns, most)) < treated / (treated + holdout)
            converted = np.stack([np.cumsum(~arms, axis=1), np.cumsum(arms, axis=1)])[:, :, 19::20].astype(np.float64)
            told = lift_of(converted, holdout=holdout, alpha=ALPHA)[0] >= -math.log(ALPHA)
            orders = np.where(told.any(axis=1), 20.0 * (told.argmax(axis=1) + 1), np.inf)
            cells.append(" to ".join(f"{number:,.0f}" for number in np.quantile(orders, (0.5, 0.9), method="higher")))
        print(f"| {holdout:.0%} | {' | '.join(cells)} |", flush=True)


def run(what: str, campaigns: int, seed: int) -> list[dict[str, Any]]:
    """Measure every campaign of a kind, and print a line each."""
    rows = []
    for kind in AA if what == "aa" else POWER:
        began = time.monotonic()
        found = (false_alarms if what == "aa" else users_to_find)(kind, campaigns, seed)
        rows.append({"what": what, "campaigns": campaigns, **asdict(kind), **found})
        told = "  ".join(f"{name} {'–' if v is None else f'{v:.1%}' if v <= 1 else f'{v:.0f}'}" for name, v in found.items())
        setting = f"holdout {kind.holdout:g}, rate {kind.rate:g}, {kind.users} users, lift {kind.lift:g}, returning {kind.returning:g}, drift {kind.drift}"
        print(f"{what} {setting} ({campaigns} campaigns, {time.monotonic() - began:.0f} s)\n    {told}", flush=True)
    return rows


def main() -> None:
    """Measure, print, and fail if a method breaks its promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("aa", "power", "both", "orders"), default="both")
    parser.add_argument("--campaigns", type=int, help="default: 1000 of aa, 100 of power and orders")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.what == "orders":
        orders_to_find(options.campaigns or 100, options.seed)
        return
    rows = []
    for what, campaigns in (("aa", 1000), ("power", 100)):
        if options.what in (what, "both"):
            rows += run(what, options.campaigns or campaigns, options.seed)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    broken = [row for row in rows if row["what"] == "aa" and max(row[name] for name in METHODS[:3]) > ALPHA]
    if broken:
        raise SystemExit(f"more than {ALPHA:.0%} false alarms: {broken}")


if __name__ == "__main__":
    main()
