"""Figures with intervals: weights are copies, values are those of the plain figures, and pairs cancel what methods share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from models import intervals
from models.head import Vector
from models.intervals import FIGURES, GROUP_FIGURES, POOLED, Comparison, paired_bootstrap, weighted_figures
from models.metrics import auc, figures, log_loss, pcoc, pr_auc, precision_at

Ids = NDArray[np.int64]
PLAIN: dict[str, Callable[[Vector, Vector, Vector], float]] = {
    "auc": lambda y, p, s: auc(y, s),
    "pr_auc": lambda y, p, s: pr_auc(y, s),
    "log_loss": lambda y, p, s: log_loss(y, p),
    "precision_at_5pct": lambda y, p, s: precision_at(0.05, y, s),
    "pcoc": lambda y, p, s: pcoc(y, p),
}


def made(n: int = 600, seed: int = 0, *, users: int = 80) -> tuple[Vector, Ids, Ids, Vector]:
    """y, user, group, and a probability that knows something; it has ties."""
    rng = np.random.default_rng(seed)
    user, group = rng.integers(0, users, n), rng.integers(0, 3, n)
    taste = rng.normal(size=users)[user]
    y = (rng.random(n) < 1 / (1 + np.exp(1.8 - taste))).astype(np.float64)
    p: Vector = np.round(1 / (1 + np.exp(1.9 - 0.6 * taste - 0.3 * rng.normal(size=n))), 2).clip(0.01, 0.99)
    return y, user, group, p


def compare(resamples: int = 60, **more: Vector) -> Comparison:
    """The probability of `made`, and others, against it."""
    y, user, group, p = made()
    return paired_bootstrap(y, user, group, {"ours": (p, p)} | {k: (v, v) for k, v in more.items()}, reference="ours", resamples=resamples)


def test_a_weight_is_that_many_copies() -> None:
    """Every figure under whole weights, 0 among them, is the plain figure of the rows repeated so often; with ties and without."""
    y, _, _, p = made(200)
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 4, (5, 200)).astype(np.float64)
    for score in (p, rng.random(200) + y / 4):
        found = weighted_figures(y, p, score, weights)
        for b, times in enumerate(weights.astype(int)):
            repeated = [np.repeat(a, times) for a in (y, p, score)]
            assert {name: found[name][b] for name in GROUP_FIGURES} == pytest.approx({name: PLAIN[name](*repeated) for name in PLAIN}, rel=1e-12)


def test_values_are_the_plain_figures() -> None:
    """To the bit: the mean over groups of what `figures` says of each, and all rows' predicted over observed; ranks by the score, the rest by the probability."""
    y, user, group, p = made()
    score = -p
    found = paired_bootstrap(y, user, group, {"a": (score, p)}, reference="a", resamples=3).methods["a"].figures
    own = [figures(y[group == g], p[group == g], score[group == g]) for g in range(3)]
    assert {name: found[name].value for name in GROUP_FIGURES} == {name: sum(f[name] for f in own) / 3 for name in GROUP_FIGURES}
    assert found[POOLED].value == pcoc(y, p)


def test_intervals_are_of_literal_resamples_of_users() -> None:
    """The whole of it against a loop that draws users with all their rows and repeats those."""
    y, user, group, p = made(300, users=40)
    other: Vector = np.round(p**0.5, 2).astype(np.float64)
    found = paired_bootstrap(y, user, group, {"a": (p, p), "b": (other, other)}, reference="a", resamples=40, seed=5)
    names = np.unique(user)
    gaps = []
    for counts in np.random.default_rng(5).multinomial(len(names), np.full(len(names), 1 / len(names)), size=40):
        times = counts[np.searchsorted(names, user)]
        yy, gg, pp, oo = (np.repeat(a, times) for a in (y, group, p, other))
        gaps.append([np.mean([PLAIN[f](yy[gg == g], q[gg == g], q[gg == g]) for g in range(3)]) for q in (pp, oo) for f in ("auc", "log_loss")])
    drawn = np.array(gaps)
    for name, gap in (("auc", drawn[:, 2] - drawn[:, 0]), ("log_loss", drawn[:, 3] - drawn[:, 1])):
        interval = found.methods["b"].gaps[name]
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(gap, [2.5, 97.5])), rel=1e-9)


def test_what_is_judged_at_once_does_not_matter() -> None:
    """Resamples taken a few at a time give the same intervals."""
    whole = compare()
    with patch.object(intervals, "MOST_WEIGHTS", 1500):
        parts = compare()
    for name in FIGURES:
        assert asdict(parts.methods["ours"].figures[name]) == pytest.approx(asdict(whole.methods["ours"].figures[name]), rel=1e-12)


def test_the_reference_is_no_better_than_itself() -> None:
    """Its gaps are exactly 0, and so is that of a method that says the same."""
    p = made()[3]
    for name in ("ours", "twin"):
        gaps = compare(twin=p.copy()).methods[name].gaps
        assert all((g.value, g.low, g.high) == (0.0, 0.0, 0.0) for g in gaps.values())


def test_pairs_show_what_single_intervals_hide() -> None:
    """A method that is a little worse everywhere: the single intervals overlap, and that of the gap does not hold 0."""
    p = made()[3]
    found = compare(200, worse=p * 0.8).methods
    assert found["worse"].figures["log_loss"].low < found["ours"].figures["log_loss"].high
    assert found["worse"].gaps["log_loss"].low > 0
    assert found["worse"].gaps["auc"].value == 0.0


def test_rows_of_one_user_do_not_narrow_an_interval() -> None:
    """Every row ten times, by the same users, tells no more: the interval stays as wide; by other users it would be narrower."""
    y, user, group, p = made()
    y10, user10, group10, p10 = np.tile(y, 10), np.tile(user, 10), np.tile(group, 10), np.tile(p, 10)
    others = user10 + 1000 * np.repeat(np.arange(10), len(y))

    def width(u: Ids, y: Vector, g: Ids, p: Vector) -> float:
        found = paired_bootstrap(y, u, g, {"a": (p, p)}, reference="a", resamples=200).methods["a"].figures["auc"]
        return found.high - found.low

    once = width(user, y, group, p)
    assert width(user10, y10, group10, p10) == pytest.approx(once, rel=1e-6)
    assert width(others, y10, group10, p10) < 0.5 * once


def test_a_group_without_a_conversion_is_left_out() -> None:
    """Its AUC is undefined, so the mean is that of the others; where no group has one it is NaN, without a warning."""
    y, user, group, p = made()
    y[group == 1] = 0.0
    found = paired_bootstrap(y, user, group, {"a": (p, p)}, reference="a", resamples=20).methods["a"].figures
    assert found["auc"].value == pytest.approx(np.mean([auc(y[group == g], p[group == g]) for g in (0, 2)]))
    assert found["log_loss"].value == pytest.approx(np.mean([log_loss(y[group == g], p[group == g]) for g in (0, 1, 2)]))
    none = paired_bootstrap(np.zeros(len(y)), user, group, {"a": (p, p)}, reference="a", resamples=20).methods["a"].figures
    assert all(math.isnan(a) for a in asdict(none["auc"]).values())
    assert math.isfinite(none["log_loss"].high)


def test_an_interval_is_around_its_value_where_groups_have_few_conversions() -> None:
    """Four groups without any skill, and four of which the one conversion ranks first, which a third of the resamples lose: the mean stays one over the same eight."""
    rng = np.random.default_rng(3)
    y, user, group, p = [], [], [], []
    for g in range(8):
        n = 300
        rank = rng.random(n)
        label = (rng.random(n) < 0.2).astype(np.float64) if g < 4 else (rank == rank.max()).astype(np.float64)
        y.append(label)
        p.append(0.9 * rank + 0.05)
        user.append(np.arange(n) + n * g)
        group.append(np.full(n, g))
    of = (np.concatenate(part) for part in (y, user, group, p))
    labels, users, groups, said = of
    found = paired_bootstrap(labels, users, groups, {"a": (said, said)}, reference="a", resamples=300).methods["a"].figures["auc"]
    assert found.value == pytest.approx((found.low + found.high) / 2, abs=0.15 * (found.high - found.low))


def test_the_same_seed_gives_the_same_plain_answer() -> None:
    """Twice the same to the bit, another seed another interval, and all of it is JSON."""
    y, user, group, p = made()
    first, again, other = (paired_bootstrap(y, user, group, {"a": (p, p)}, reference="a", resamples=30, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other
    plain = json.loads(json.dumps(asdict(first), allow_nan=False))
    assert (plain["rows"], plain["users"], plain["groups"], plain["conversions"]) == (600, len(np.unique(user)), 3, int(y.sum()))
    assert set(plain["methods"]["a"]["gaps"]) == set(FIGURES)


def test_what_cannot_be_compared_is_refused() -> None:
    """Another reference, another length, no number, a label of 2, and no resample."""
    y, user, group, p = made()
    with pytest.raises(ValueError, match="no method 'b'"):
        paired_bootstrap(y, user, group, {"a": (p, p)}, reference="b")
    with pytest.raises(ValueError, match="must be"):
        paired_bootstrap(y, user, group, {"a": (p, p[1:])}, reference="a")
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap(y, user, group, {"a": (p, np.full(len(p), np.nan))}, reference="a", resamples=2)
    with pytest.raises(ValueError, match="0 or 1"):
        paired_bootstrap(y * 2, user, group, {"a": (p, p)}, reference="a", resamples=2)
    with pytest.raises(ValueError, match="resample"):
        paired_bootstrap(y, user, group, {"a": (p, p)}, reference="a", resamples=0)
