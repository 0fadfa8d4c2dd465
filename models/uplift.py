"""Does the campaign sell more? Treated users against a random holdout, on exposures whose label is final, valid however often one looks.

The unit is the user, who was randomised. Users enter in the order in which their first exposure closes, and a user has converted once an exposure of
theirs that closed with an order is there. So a later visit can still raise a user who entered without an order. That is why

- the e-process and the relative lift look at converted users only, each at their first closed order: if the campaign changes nothing, then the arm of
  each is a draw with the chance that the launch fixed, whatever came before and whenever anybody looks. Exact, for any number of users, for any drift of
  the conversion rate, and for users who come back (Lindon and Malek 2022). It is the randomisation's own test of the 2×2 table of arm and order.
- the interval of the difference takes its variance about zero, not about the mean: then the sums have uncorrelated increments, as a user changes at most
  once, and the mSPRT holds for them; the price is a factor 1/(1 − conversion rate) in users. It is for large numbers, and no smaller than if the arms'
  rates were equal, so that a small holdout with a lucky start does not look certain.

p-values are 1 / E of this look, not of the greatest one on the way: users whose worker lags enter late, and before others, so that each look has another way.

CUPED (Deng et al. 2013) takes off what the score at the first exposure said already. Precision@K is that of each arm among the highest-scored
users of both: who is in which arm is chance, so no weights are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.intervals import Interval, wilson
from models.sequential import Array, concentration, log_e_binomial, normal_margin, share_interval

LOG_RATIO_SD: Final = 0.25
"""The lifts that are looked for: the tests find those of about ±25 % soonest. A choice of power; validity does not hang on it."""
SAMPLE_RATIO_ALPHA: Final = 0.01
SAMPLE_RATIO_SD: Final = 0.1
BALANCE_ALPHA: Final = 0.01
BALANCE_SD: Final = 0.1
TOP: Final = 0.05
PATH_POINTS: Final = 200
UNKNOWN: Final = Interval(math.nan, math.nan, math.nan)

Verdict = Literal["lifts", "lowers", "undecided", "too few", "not comparable"]


@dataclass(frozen=True)
class Matured:
    """Exposures with a final label, (N,) each, in any order, each once; a user is in one arm. Unknown scores and probabilities are NaN."""

    exposure: NDArray[np.str_]
    user: NDArray[np.str_]
    treated: NDArray[np.bool_]
    close_ms: NDArray[np.int64]
    label: NDArray[np.int8]
    score: Array
    probability: Array


@dataclass(frozen=True)
class Moments:
    """Sums over the users who have entered, (2, ...) each, holdout first: users, conversions y, score x (at the first exposure), x², x·y."""

    n: Array
    y: Array
    x: Array
    xx: Array
    xy: Array


@dataclass(frozen=True)
class Difference:
    """Treated less holdout, (...) each, in orders per user; NaN and an infinite margin while an arm is empty. `reduction`: the share of the variance that went."""

    value: Array
    margin: Array
    reduction: Array


@dataclass(frozen=True)
class Arm:
    """One arm so far. `predicted` is the mean probability at the users' first exposures."""

    users: int
    converted: int
    exposures: int
    conversions: int
    predicted: float

    @property
    def rate(self) -> float:
        """Converted users over users; NaN without users."""
        return self.converted / self.users if self.users else math.nan


@dataclass(frozen=True)
class SampleRatio:
    """Whether the arms' sizes fit the holdout's share. `p_value` is valid at every look."""

    expected: float
    observed: float
    p_value: float
    fits: bool


@dataclass(frozen=True)
class PerExposure:
    """Orders per exposure, treated less holdout, with a standard error by users. For one look: visits of one user are not independent in time."""

    difference: float
    se: float


@dataclass(frozen=True)
class Targeted:
    """Precision@K: how many of the highest-scored share of the users convert untreated, and treated. Intervals are Wilson's 95 %, for one look."""

    share: float
    users: int
    holdout_users: int
    untreated: Interval
    treated: Interval


@dataclass(frozen=True)
class Path:
    """The figures as they were while users came; at most `PATH_POINTS` points."""

    close_ms: list[int]
    users: list[int]
    e_value: list[float]
    lift: list[Interval]
    difference: list[Interval]


@dataclass(frozen=True)
class Uplift:
    """All of it. `lift` is relative, per assigned user; `difference` and `adjusted` (CUPED) are orders per user; intervals hold with 1 − alpha at all times together."""

    holdout_share: float
    alpha: float
    verdict: Verdict
    treated: Arm
    holdout: Arm
    sample_ratio: SampleRatio
    lift: Interval
    e_value: float
    p_value: float
    difference: Interval
    adjusted: Interval
    variance_reduction: float
    scores_balanced: bool
    per_exposure: PerExposure
    targeted: Targeted | None
    path: Path


def lift_of(converted: Array, *, holdout: float, alpha: float = 0.05) -> tuple[Array, Array, Array, Array]:
    """Return (log E, lift, low, high) from converted users (2, ...), holdout first; the lift is orders per assigned user, treated over holdout less 1."""
    treated, c = 1.0 - holdout, concentration(1.0 - holdout, LOG_RATIO_SD)
    hits, draws = converted[1], converted.sum(axis=0)
    log_e = log_e_binomial(hits, draws, treated, prior=treated, c=c)
    low, high = share_interval(hits, draws, prior=treated, c=c, alpha=alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = hits / converted[0] * holdout / treated - 1.0
        low, high = (s / (1.0 - s) * holdout / treated - 1.0 for s in (low, high))
    return log_e, np.where(converted[0] > 0, value, np.nan), low, high


def difference(m: Moments, *, adjusted: bool, alpha: float = 0.05) -> Difference:
    """Return the difference of the arms' rates, with or without CUPED on the score."""
    n = m.n
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x = m.x.sum(axis=0) / n.sum(axis=0)
        spread_y = (m.y - m.y**2 / n).sum(axis=0)
        spread_x, joint = (m.xx - m.x**2 / n).sum(axis=0), (m.xy - m.x * m.y / n).sum(axis=0)
        slope = np.where(spread_x > 0, joint / spread_x, 0.0) if adjusted else np.zeros_like(mean_x)
        means = m.y / n - slope * (m.x / n - mean_x)
        square = m.y - 2.0 * slope * (m.xy - mean_x * m.y) + slope**2 * (m.xx - 2.0 * mean_x * m.x + n * mean_x**2)
        # Half a conversion more, so that none is not certainty.
        own = ((square + 0.5) / n**2).sum(axis=0)
        as_if_equal = (square.sum(axis=0) + 0.5) / n.sum(axis=0) * (1.0 / n).sum(axis=0)
        rate = (m.y.sum(axis=0) + 0.5) / (n.sum(axis=0) + 1.0)
        margin = normal_margin(np.sqrt(np.maximum(own, as_if_equal)), LOG_RATIO_SD * rate, alpha=alpha)
        reduction = np.where(spread_y > 0, slope * joint / spread_y, 0.0)
    there = (n > 0).all(axis=0)
    return Difference(np.where(there, means[1] - means[0], np.nan), np.where(there, margin, np.inf), np.where(there, reduction, np.nan))


def analyse(matured: Matured, *, holdout: float, alpha: float = 0.05, top: float = TOP) -> Uplift:
    """Return all figures; `holdout` is the share of the users that the launch holds out, between 0 and 1. ValueError outside, or for a user in two arms."""
    if not 0.0 < holdout < 1.0:
        raise ValueError(f"a holdout of {holdout} has nothing to compare: expected a share between 0 and 1")
    order = np.lexsort((matured.exposure, matured.close_ms))
    arm, y, x = matured.treated[order].astype(np.int64), matured.label[order] > 0, matured.score[order]
    _, first, user = np.unique(matured.user[order], return_index=True, return_inverse=True)
    if not np.array_equal(arm, arm[first][user]):
        raise ValueError("a user is in both arms")
    enters = np.zeros(len(order), np.bool_)
    enters[first] = True
    converts = np.zeros(len(order), np.bool_)
    converts[np.flatnonzero(y)[np.unique(user[y], return_index=True)[1]]] = True
    known = bool(np.isfinite(x[enters]).all())
    moments = _moments(arm, enters, converts, x[first][user] if known else np.zeros(len(order)))
    at = _checkpoints(enters)
    path = _path(moments, at, matured.close_ms[order], holdout=holdout, alpha=alpha)
    arms = [_arm(arm == a, enters, converts, y, matured.probability[order]) for a in (0, 1)]
    now = Moments(*(a[:, -1:] if len(order) else np.zeros((2, 1)) for a in (moments.n, moments.y, moments.x, moments.xx, moments.xy)))
    lift, e_value = (path.lift[-1], path.e_value[-1]) if path.lift else (UNKNOWN, 1.0)
    ratio = _sample_ratio(arm[enters], holdout)
    raw, adjusted = difference(now, adjusted=False, alpha=alpha), difference(now, adjusted=True, alpha=alpha)
    return Uplift(
        holdout_share=holdout,
        alpha=alpha,
        verdict=_verdict(lift, *arms, fits=ratio.fits),
        treated=arms[1],
        holdout=arms[0],
        sample_ratio=ratio,
        lift=lift,
        e_value=e_value,
        p_value=min(1.0, 1.0 / e_value),
        difference=_interval(raw, 0),
        adjusted=_interval(adjusted, 0) if known else UNKNOWN,
        variance_reduction=float(adjusted.reduction[0]) if known else math.nan,
        scores_balanced=_balanced(now) if known else True,
        per_exposure=_per_exposure(arm, y, user),
        targeted=_targeted(arm[first], x[first], np.bincount(user, y) > 0, enters=first, top=top) if known and len(first) else None,
        path=path,
    )


def _moments(arm: NDArray[np.int64], enters: NDArray[np.bool_], converts: NDArray[np.bool_], x: Array) -> Moments:
    """The sums after each exposure, (2, N)."""
    of = np.stack([arm == 0, arm == 1])

    def total(what: NDArray[np.generic]) -> Array:
        return np.asarray((of * what).cumsum(axis=1), np.float64)

    return Moments(total(enters), total(converts), total(enters * x), total(enters * x**2), total(converts * x))


def _checkpoints(enters: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The exposures at which the path has a point: spread evenly over the users' coming, and the last of all."""
    entries = np.flatnonzero(enters)
    if not len(entries):
        return entries
    some = entries[np.unique(np.linspace(0, len(entries) - 1, PATH_POINTS - 1).round().astype(np.int64))]
    return np.unique(np.append(some, len(enters) - 1))


def _path(moments: Moments, at: NDArray[np.int64], close_ms: NDArray[np.int64], *, holdout: float, alpha: float) -> Path:
    some = Moments(*(a[:, at] for a in (moments.n, moments.y, moments.x, moments.xx, moments.xy)))
    log_e, value, low, high = lift_of(some.y, holdout=holdout, alpha=alpha)
    found = difference(some, adjusted=False, alpha=alpha)
    return Path(
        close_ms=close_ms[at].tolist(),
        users=some.n.sum(axis=0).astype(np.int64).tolist(),
        e_value=np.exp(np.minimum(log_e, 700.0)).tolist(),
        lift=[Interval(*map(float, three)) for three in zip(value, low, high, strict=True)],
        difference=[_interval(found, i) for i in range(len(at))],
    )


def _interval(found: Difference, i: int) -> Interval:
    value, margin = float(found.value[i]), float(found.margin[i])
    return Interval(value, max(-1.0, value - margin), min(1.0, value + margin)) if math.isfinite(value) else UNKNOWN


def _arm(mine: NDArray[np.bool_], enters: NDArray[np.bool_], converts: NDArray[np.bool_], y: NDArray[np.bool_], probability: Array) -> Arm:
    users = int((mine & enters).sum())
    return Arm(
        users=users,
        converted=int((mine & converts).sum()),
        exposures=int(mine.sum()),
        conversions=int((mine & y).sum()),
        predicted=float(probability[mine & enters].mean()) if users else math.nan,
    )


def _verdict(lift: Interval, holdout: Arm, treated: Arm, *, fits: bool) -> Verdict:
    if not holdout.users or not treated.users or not holdout.converted + treated.converted:
        return "too few"
    if not fits:
        return "not comparable"
    return "lifts" if lift.low > 0 else "lowers" if lift.high < 0 else "undecided"


def _sample_ratio(arm: NDArray[np.int64], holdout: float) -> SampleRatio:
    """The always-valid test of the arms' sizes (Lindon and Malek 2022)."""
    held = np.array([np.count_nonzero(arm == 0)])
    log_e = log_e_binomial(held, np.array([len(arm)]), holdout, prior=holdout, c=concentration(holdout, SAMPLE_RATIO_SD))
    p_value = math.exp(-max(0.0, float(log_e[0])))
    return SampleRatio(holdout, float(held[0]) / len(arm) if len(arm) else math.nan, p_value, p_value > SAMPLE_RATIO_ALPHA)


def _balanced(m: Moments) -> bool:
    """Whether the arms' scores at the first exposure are alike, as they must be if the campaign cannot have touched them yet."""
    n = m.n[:, 0]
    if (n < 2).any():
        return True
    mean = m.x[:, 0] / n
    variance = np.maximum(m.xx[:, 0] / n - mean**2, 0.0)
    se, sd = math.sqrt((variance / n).sum()), math.sqrt(variance.mean())
    return se == 0.0 or bool(abs(mean[1] - mean[0]) <= normal_margin(se, BALANCE_SD * sd, alpha=BALANCE_ALPHA))


def _per_exposure(arm: NDArray[np.int64], y: NDArray[np.bool_], user: NDArray[np.int64]) -> PerExposure:
    """Orders over exposures in each arm: a ratio of sums over users, whose variance is that of its linear part (Deng, Knoblich and Lu 2018)."""
    rates, variance = [], 0.0
    for a in (0, 1):
        mine = arm == a
        if not mine.any():
            return PerExposure(math.nan, math.nan)
        exposures, orders = np.bincount(user[mine]), np.bincount(user[mine], y[mine])
        rates.append(orders.sum() / exposures.sum())
        variance += float(((orders - rates[-1] * exposures) ** 2).sum() / exposures.sum() ** 2)
    return PerExposure(float(rates[1] - rates[0]), math.sqrt(variance))


def _targeted(arm: NDArray[np.int64], score: Array, converted: NDArray[np.bool_], *, enters: NDArray[np.int64], top: float) -> Targeted:
    """Each arm's share of users who converted among the highest-scored of both; of equal scores, who entered first."""
    best = np.lexsort((enters, -score))[: math.ceil(top * len(arm) - 1e-9)]  # .07 of 200 are 14, whatever the product's last bit
    untreated, treated = (_share(converted[best][arm[best] == a]) for a in (0, 1))
    return Targeted(top, len(best), int((arm[best] == 0).sum()), untreated, treated)


def _share(hits: NDArray[np.bool_]) -> Interval:
    """How many of them are hits, with Wilson's interval."""
    if not len(hits):
        return UNKNOWN
    rate = float(hits.mean())
    return Interval(rate, *wilson(rate, len(hits)))
