"""How much each source line is like a target line, measured; what follows from it is `models.source_weights`. Numpy, float64, deterministic.

Measured for each source, against the target's rows (x standardised with the sources' mean and deviation, clipped at ±6):

- shoppers: PSI (mean over features, ten quantile bins), MMD² (RBF kernel, unbiased), proxy A-distance (a ridge classifier that tells the two lines apart
  on users it has not seen); in the same span of time if the source has rows enough there, so that the age of the log is not taken for a difference;
- task: the difference of the orders' log odds, the funnel (mean |difference| of the log odds of click, cart and order), the delay curve (greatest |F_a - F_b|);
- feature space: the share of the target's values within the source's 1-99 % range, and of the target's varying features that vary in the source too;
- quality: rows, conversions, span in days, share of zeros in x;
- preferences: `agreement`, by how much the slope of the source's own head on the target shrinks against that on its own held-out users: 1 the same,
  0 unrelated, -1 opposite. From the target's labels if it has ten conversions, and from the other sources' labels, which count as one more measurement
  whose error is at least `OTHERS_SE`: a launch is a line of the same shop, so a line that contradicts all others most likely contradicts the launch.
  A line whose own head tells nothing on its held-out users is judged the other way round, by how far what all sources have taught holds there;
- LogME and H-score of the source head's logit for the target's labels (blind to sign, see `models.transferability`): shown, they decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from models.delay import default_edges_s
from models.distances import (
    cells_of,
    delay_distance,
    kernel,
    log_odds_difference,
    median_scale,
    mmd2_of_sides,
    proxy_a_distance,
    psi_of_sides,
    quantile_edges,
)
from models.encode import standardise
from models.fit import fit_map
from models.head import Matrix, Vector
from models.rows import Rows, user_fold
from models.source_weights import SourceSimilarity, weigh
from models.transferability import Estimate, agreement, h_score, held_out_head, logme, slope

FEWEST_ROWS, FEWEST_CONVERSIONS, FEWEST_DELAYS = 20, 10, 5
SAME_SPAN_ROWS = 200
KERNEL_ROWS, CLASSIFIER_ROWS = 500, 3000
PERMUTATIONS, PERMUTATION_SEED = 200, 1
NOISE_Z, NOISE_QUANTILE, NOISE_KS = 2.33, 0.99, 1.63
OTHERS_SE = 0.3
HEAD_C = 0.01


@dataclass(frozen=True)
class Similarity:
    """The sources of a target, the best first. `pooled_*` are those of a head of all sources, `level_logme` that of a constant: what a logit must beat."""

    target: str
    target_rows: int
    target_conversions: int
    sources: tuple[SourceSimilarity, ...]
    pooled_logme: float | None
    level_logme: float | None
    pooled_h_score: float | None
    note: str


def similarity(rows: Rows, target: str, *, about_line: Collection[str] = (), labelled: bool = True) -> Similarity:
    """Measure every other line of `rows` against `target`, and weigh them.

    The target may have few rows or none. `about_line` names the features that tell how busy, old or dear a line is rather than who its shoppers are: the
    shoppers are compared without them (a line's own popularity would tell any two lines apart), the heads keep them. `labelled` False: the target's labels
    are not used.
    The order of rows and lines does not matter. InputError for an unknown target, no other line with rows, or a feature that is not finite.
    """
    if target not in rows.lines:
        raise InputError(f"there is no line {target!r}; there are {', '.join(sorted(rows.lines)[:20])}")
    if not np.isfinite(rows.x).all():
        raise InputError(f"feature {rows.feature_names[int(np.flatnonzero(~np.isfinite(rows.x).all(0))[0])]!r} is not finite")
    if unknown := sorted(set(about_line) - set(rows.feature_names)):
        raise InputError(f"there is no feature {unknown[0]!r}")
    rows = in_order(rows)
    at = rows.lines.index(target)
    pool = rows.select(rows.line != at)
    if len(pool) == 0:
        raise InputError(f"no line but {target!r} has final exposures: there is no source to measure")
    mean, std = pool.x.mean(axis=0, dtype=np.float64), pool.x.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    shoppers = np.array([name not in about_line for name in rows.feature_names])
    own = _Line(rows.select(rows.line == at), mean, std, shoppers)
    sources = {line: _Line(pool.select(pool.line == k), mean, std, shoppers) for k, line in enumerate(rows.lines) if k != at}
    found = {line: _quality(line, source) for line, source in sources.items()}
    _compare_shoppers(own, sources, found)
    for line, source in sources.items():
        found[line] = _with_task(found[line], own, source, rows.window_s, labelled)
    with_labels = labelled and _few_labels(own) is None
    heads = {line: _Head.of(source) for line, source in sources.items()}
    everywhere = _pool_agreements(sources) if any(head.why for head in heads.values()) else {}
    for line, head in heads.items():
        others = [source for other, source in sources.items() if other != line]
        found[line] = _with_head(found[line], head, own, others, everywhere.get(line), labelled)
    level = logme(np.ones((len(own.y), 1)), own.y) if with_labels else None
    pooled = (
        _explains(fit_map(standardise(pool.x, mean, std), pool.ordered, c=HEAD_C).m, own)
        if with_labels and 0 < pool.ordered.sum() < len(pool)
        else (None, None)
    )
    weighed, note = weigh(list(found.values()))
    if pooled[0] is not None and level is not None and pooled[0] <= level:
        note = "; ".join(filter(None, (note, "so far the sources together explain the target's orders no better than no features at all")))
    return Similarity(target, len(own.y), int(own.y.sum()), weighed, pooled[0], level, pooled[1], note)


def in_order(rows: Rows) -> Rows:
    """The same rows in an order that depends on their content alone: lines by name; rows by line, user, time, delays and features."""
    names = tuple(sorted(rows.lines))
    place = np.array([names.index(line) for line in rows.lines], dtype=np.int32)
    line = place[rows.line]
    keys = (*rows.delay_s.T[::-1], rows.ts_ms, rows.user, line)
    order = np.lexsort(keys)
    if np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0).any():
        order = np.lexsort((*rows.x.T[::-1], *keys))
    return Rows(rows.x[order], line[order], names, rows.user[order], rows.ts_ms[order], rows.delay_s[order], rows.window_s, rows.feature_names)


class _Line:
    """One line's rows, ready to compare: z (N, F + 1) for heads, `shoppers` (N, S) for distances, and a fixed random order of the rows."""

    def __init__(self, rows: Rows, mean: Vector, std: Vector, shoppers: NDArray[np.bool_]) -> None:
        self.rows = rows
        self.z = standardise(rows.x, mean, std)
        self.shoppers = self.z[:, :-1][:, shoppers]
        self.y = rows.ordered
        self.user = rows.user

    def during(self, other: _Line) -> NDArray[np.bool_]:
        """(N,) bool: the rows within the other's span of time; all of them if these are too few."""
        if len(other.y) == 0:
            return np.ones(len(self.y), dtype=np.bool_)
        ts = self.rows.ts_ms
        within: NDArray[np.bool_] = (ts >= other.rows.ts_ms.min()) & (ts <= other.rows.ts_ms.max())
        return within if within.sum() >= SAME_SPAN_ROWS else np.ones(len(ts), dtype=np.bool_)

    def sample(self, most: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Positions of at most `most` of the allowed rows, spread over users and times; always the same."""
        here = np.arange(len(self.y)) if allowed is None else np.flatnonzero(allowed)
        key = user_fold(self.user[here] ^ (self.rows.ts_ms[here] << 20), 1 << 62, salt=17)
        return np.sort(here[np.argsort(key, kind="stable")[:most]])


def _quality(line: str, source: _Line) -> SourceSimilarity:
    ts = source.rows.ts_ms
    return SourceSimilarity(
        line=line,
        rows=len(ts),
        conversions=int(source.y.sum()),
        span_days=float(ts.max() - ts.min()) / 86_400_000 if len(ts) else 0.0,
        missing_share=float((source.rows.x == 0).mean()) if len(ts) else 0.0,
    )


def _compare_shoppers(own: _Line, sources: dict[str, _Line], found: dict[str, SourceSimilarity]) -> None:
    """Fill in PSI, MMD², A-distance and feature space of every source."""
    target_sample = own.sample(KERNEL_ROWS)
    everyone = np.concatenate([own.shoppers[target_sample], *(s.shoppers[s.sample(KERNEL_ROWS)] for s in sources.values())])
    step = max(1, len(everyone) // 1000)
    scale = median_scale(everyone[::step])
    edges = quantile_edges(everyone)
    for line, source in sources.items():
        here = source.during(own)
        why = _too_few("the target", len(own.y), FEWEST_ROWS, "exposures") or _too_few("the line", int(here.sum()), FEWEST_ROWS, "exposures")
        why = why or ("" if own.shoppers.shape[1] else "every feature is about the line")
        if why:
            found[line] = _unknown(found[line], ("psi", "mmd2", "a_distance", "inside", "shared_features"), why)
            continue
        sample = source.sample(KERNEL_ROWS, here)
        a, b = source.shoppers[sample], own.shoppers[target_sample]
        both = np.concatenate([a, b])
        side = _permuted_sides(source.user[sample], own.user[target_sample], np.random.default_rng(PERMUTATION_SEED))
        cells, starts = cells_of(both, edges)
        psis, mmds = psi_of_sides(cells, starts, side), mmd2_of_sides(kernel(both, scale), side)
        train, test = source.sample(CLASSIFIER_ROWS, here), own.sample(CLASSIFIER_ROWS)
        told = proxy_a_distance(source.shoppers[train], own.shoppers[test], source.user[train], own.user[test])
        low, high = np.quantile(source.shoppers, (0.01, 0.99), axis=0)
        varies = own.shoppers.std(axis=0) > 0
        found[line] = replace(
            found[line],
            psi=float(psis[0]),
            mmd2=float(mmds[0]),
            a_distance=told.value,
            inside=float(((own.shoppers >= low) & (own.shoppers <= high)).mean()),
            shared_features=float((source.shoppers.std(axis=0) > 0)[varies].mean()) if varies.any() else 1.0,
            noise={"psi": _quantile(psis[1:]), "mmd2": _quantile(mmds[1:]), "a_distance": NOISE_Z * told.se},
        )


def _quantile(values: Vector) -> float:
    return float(np.quantile(values, NOISE_QUANTILE))


def _permuted_sides(user_a: NDArray[np.int64], user_b: NDArray[np.int64], rng: np.random.Generator) -> Matrix:
    """(N + M, 1 + PERMUTATIONS): the sides as they are, then with every user's rows of a side moved as one; each way has two rows on both sides."""
    n, m = len(user_a), len(user_b)
    groups_a = np.unique(user_a, return_inverse=True)[1].reshape(-1)
    groups_b = np.unique(user_b, return_inverse=True)[1].reshape(-1) + int(groups_a.max()) + 1
    group = np.r_[groups_a, groups_b]
    size = np.bincount(group)
    side = np.zeros((n + m, 1 + PERMUTATIONS))
    side[:n, 0] = 1.0
    for r in range(1, 1 + PERMUTATIONS):
        order = rng.permutation(len(size))
        before = np.cumsum(size[order]) - size[order]
        chosen = np.zeros(len(size))
        chosen[order[before + size[order] / 2 < n]] = 1.0
        drawn = chosen[group]
        # One user with nearly all rows: the sides cannot be balanced by whole users, so rows are moved alone.
        side[:, r] = drawn if 2 <= drawn.sum() <= n + m - 2 else rng.permutation(side[:, 0])
    return side


def _with_task(s: SourceSimilarity, own: _Line, source: _Line, window_s: float, labelled: bool) -> SourceSimilarity:
    here = source.during(own)
    why = (
        _unlabelled(labelled) or _too_few("the target", len(own.y), FEWEST_ROWS, "exposures") or _too_few("the line", int(here.sum()), FEWEST_ROWS, "exposures")
    )
    if why:
        return _unknown(s, ("log_odds", "log_odds_se", "funnel", "delay"), why)
    theirs, ours = source.rows.happened[here], own.rows.happened
    steps = [log_odds_difference(theirs[:, k], ours[:, k], source.user[here], own.user) for k in range(3)]
    s = replace(
        s,
        log_odds=steps[2].value,
        log_odds_se=steps[2].se,
        funnel=math.fsum(abs(step.value) for step in steps) / 3,
        noise=s.noise | {"log_odds": NOISE_Z * steps[2].se, "funnel": NOISE_Z * math.fsum(step.se for step in steps) / 3},
    )
    n, m = int(theirs[:, 2].sum()), int(own.y.sum())
    if few := _too_few("the target", m, FEWEST_DELAYS, "conversions") or _too_few("the line", n, FEWEST_DELAYS, "conversions"):
        return _unknown(s, ("delay",), few)
    distance = delay_distance(source.rows.order_delay_s[here], own.rows.order_delay_s, default_edges_s(window_s))
    return replace(s, delay=distance, noise=s.noise | {"delay": NOISE_KS * math.sqrt((n + m) / (n * m))})


@dataclass(frozen=True)
class _Head:
    """A source line's own head: its weights (F + 1,), and its slope on the line's own held-out users; or why there is none."""

    m: Vector | None = None
    at_home: Estimate | None = None
    why: str = ""

    @classmethod
    def of(cls, source: _Line) -> _Head:
        if why := _few_labels(source, "the line"):
            return cls(why=why)
        logit, m = held_out_head(source.z, source.y, source.user, c=HEAD_C)
        at_home = slope(logit, source.y, source.user)
        return cls(m, at_home, "" if at_home.clear else "the line's own head does not tell its held-out users' orders apart")


def _with_head(s: SourceSimilarity, head: _Head, own: _Line, others: list[_Line], everywhere: Estimate | None, labelled: bool) -> SourceSimilarity:
    few_here = _unlabelled(labelled) or _few_labels(own)
    if head.m is None or few_here:
        s = _unknown(s, ("logme", "h_score"), few_here or head.why)
    else:
        evidence, share = _explains(head.m, own)
        s = replace(s, logme=evidence, h_score=share)
    if head.m is None or head.why or head.at_home is None:
        if everywhere is None:
            return _unknown(s, ("agreement", "agreement_se"), head.why)
        return replace(s, agreement=everywhere.value, agreement_se=math.hypot(everywhere.se, OTHERS_SE))
    found = []
    if not few_here:
        found.append(agreement(slope(own.z @ head.m, own.y, own.user), head.at_home))
    telling = [other for other in others if _few_labels(other) is None]
    if len(telling) >= 2:
        there = agreement(_slope_elsewhere(head.m, telling), head.at_home)
        found.append(Estimate(there.value, math.hypot(there.se, OTHERS_SE)))
    if not found:
        return _unknown(s, ("agreement", "agreement_se"), few_here or "too few lines with labels")
    precision = [1.0 / e.se**2 for e in found]
    value = math.fsum(e.value * p for e, p in zip(found, precision, strict=True)) / math.fsum(precision)
    return replace(s, agreement=value, agreement_se=math.fsum(precision) ** -0.5)


def _pool_agreements(sources: dict[str, _Line]) -> dict[str, Estimate]:
    """How far what all sources have taught (held-out users) holds in each, for lines whose own head is not clear; empty for fewer than three with labels."""
    telling = {line: source for line, source in sources.items() if _few_labels(source) is None}
    if len(telling) < 3:
        return {}
    z, y, user = (np.concatenate([getattr(source, name) for source in telling.values()]) for name in ("z", "y", "user"))
    logit, _ = held_out_head(z, y, user, c=HEAD_C)
    parts = np.split(logit, np.cumsum([len(source.y) for source in telling.values()])[:-1])
    at_home = _common_slope(parts, list(telling.values()))
    if not at_home.clear:
        return {}
    return {line: agreement(slope(part, source.y, source.user), at_home) for (line, source), part in zip(telling.items(), parts, strict=True)}


def _slope_elsewhere(m: Vector, lines: list[_Line]) -> Estimate:
    """The slope of a head's logit over the rows of other lines."""
    return _common_slope([line.z @ m for line in lines], lines)


def _common_slope(logits: list[Vector], lines: list[_Line]) -> Estimate:
    """One slope over several lines' rows, each line with its own level."""
    hits = [float(line.y.sum()) for line in lines]
    levels = [np.full(len(line.y), math.log((k + 0.5) / (len(line.y) - k + 0.5))) for line, k in zip(lines, hits, strict=True)]
    y, user = np.concatenate([line.y for line in lines]), np.concatenate([line.user for line in lines])
    return slope(np.concatenate([logit - logit.mean() for logit in logits]), y, user, np.concatenate(levels))


def _explains(m: Vector, own: _Line) -> tuple[float, float]:
    """LogME and H-score of a head's logit (standardised, and a constant) for the target's labels."""
    logit = own.z @ m
    spread = float(logit.std())
    column = ((logit - logit.mean()) / (spread if spread > 1e-12 else 1.0))[:, None]
    return logme(np.concatenate([column, np.ones_like(column)], axis=1), own.y), h_score(column, own.y)


def _unknown(s: SourceSimilarity, names: tuple[str, ...], why: str) -> SourceSimilarity:
    return replace(s, unknown=s.unknown | dict.fromkeys(names, why))


def _too_few(who: str, count: int, least: int, what: str) -> str:
    return f"{who} has {count} {what}; {least} are needed" if count < least else ""


def _unlabelled(labelled: bool) -> str:
    return "" if labelled else "the target's labels are not known"


def _few_labels(line: _Line, who: str = "the target") -> str | None:
    """Why a line's labels are too few to fit or judge a head on, or None."""
    hits = int(line.y.sum())
    return _too_few(who, hits, FEWEST_CONVERSIONS, "conversions") or _too_few(who, len(line.y) - hits, FEWEST_CONVERSIONS, "exposures without one") or None
