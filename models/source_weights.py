"""Which source lines to learn from: the weights that follow from what `models.similarity` has measured of each.

The rule. A difference counts only as far as it exceeds

  (a) sampling noise: the 99 % quantile of permutations of whole users (PSI, MMD²), 2.33 standard errors that allow for users with several rows
      (A-distance, log odds, funnel), the Kolmogorov-Smirnov bound (delay); and
  (b) for the shoppers, the distance of the nearest source: a new line differs from every older one (its shoppers have no past in it), which says nothing
      about which. Up to a quarter above its distance a source counts as no farther, since large distances are measured with large errors.

What is left costs nothing up to `free` of its `Limits`, and then takes weight away evenly until, at `gone`, none is left. An agreement whose upper bound
(1.645 standard errors) is at least `FULL_AGREEMENT` costs nothing; at 0 and below it leaves no weight. The source's weight is the least of these factors
(the worst finding decides, and is named as the reason): 1 "pooled", under `LEAST_WEIGHT` 0 and "left out", between "weighted". So lines that are samples
of one population are all pooled, and few rows leave nothing out. A measure that cannot be computed costs nothing. If every source were left out, all
are pooled, and `note` says so.

`weight` is the weight of the source's rows in a pooled fit. `pi`, sum 1, is the trust in each source: weight × score × (conversions + ½) / (conversions + 50),
for whoever takes one line rather than the pool. `score` = 1 / (1 + the sum of the differences in units of `gone`), noise and all: it ranks those of equal
weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

POOLED, WEIGHTED, LEFT_OUT = "pooled", "weighted", "left out"
FULL_AGREEMENT, UPPER_Z = 0.7, 1.645
LEAST_WEIGHT = 0.1
RICH_CONVERSIONS = 50.0
NEAREST_SLACK = 1.25


@dataclass(frozen=True)
class Limits:
    """How much of a difference is free beyond noise, and at how much no weight is left."""

    free: float
    gone: float

    def factor(self, excess: float) -> float:
        """1 up to `free`, falling evenly to 0 at `gone`."""
        return float(np.clip((self.gone - excess) / (self.gone - self.free), 0.0, 1.0))


LIMITS = {
    "psi": Limits(0.25, 1.5),
    "mmd2": Limits(0.05, 0.3),
    "a_distance": Limits(0.5, 1.5),
    "log_odds": Limits(1.0, 4.0),
    "funnel": Limits(1.0, 4.0),
    "delay": Limits(0.15, 0.9),
}
RELATIVE = ("psi", "mmd2", "a_distance")
WORDS = {
    "psi": "its shoppers' features are spread otherwise (PSI)",
    "mmd2": "its shoppers' features are spread otherwise (MMD²)",
    "a_distance": "its shoppers are easily told apart (A-distance)",
    "log_odds": "its share of orders is far off",
    "funnel": "its clicks and carts are far off",
    "delay": "its orders come sooner or later",
    "agreement": "its shoppers prefer otherwise (agreement)",
}


@dataclass(frozen=True)
class SourceSimilarity:
    """What was measured of one source line, and what follows; None where a figure cannot be computed, and `unknown` says why.

    `noise` holds how large a measure may be by chance. `log_odds` is source less target; `log_odds_se` its standard error, users' rows held together.
    `weight` in 0..1 is that of the line's rows, `pi` its share of the trust (sum 1), `reason` the finding that took weight away ("" if none did).
    """

    line: str
    rows: int
    conversions: int
    span_days: float
    missing_share: float
    psi: float | None = None
    mmd2: float | None = None
    a_distance: float | None = None
    inside: float | None = None
    shared_features: float | None = None
    log_odds: float | None = None
    log_odds_se: float | None = None
    funnel: float | None = None
    delay: float | None = None
    agreement: float | None = None
    agreement_se: float | None = None
    logme: float | None = None
    h_score: float | None = None
    noise: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    score: float = 1.0
    weight: float = 1.0
    pi: float = 0.0
    verdict: str = POOLED
    reason: str = ""


def weigh(found: list[SourceSimilarity]) -> tuple[tuple[SourceSimilarity, ...], str]:
    """Score, weight, verdict, reason and pi of each source by the rule of this module, the best first; and a note if all would be left out."""
    nearest = {name: min((max(0.0, v) for s in found if (v := getattr(s, name)) is not None), default=0.0) for name in RELATIVE}
    scores = _scores(found)
    weighed = [_weighed(replace(s, score=score), nearest) for s, score in zip(found, scores, strict=True)]
    note = ""
    if not any(s.weight > 0 for s in weighed):
        note = "every source looks unrelated to the target: all are pooled, and it is for the mixture to turn to the target's own labels"
        weighed = [replace(s, weight=1.0, verdict=POOLED) if s.rows else s for s in weighed]
    elif nearest["a_distance"] >= LIMITS["a_distance"].gone:
        note = "the target's shoppers are easily told from those of every source: what all sources share was held against none"
    trust = [s.weight * s.score * (s.conversions + 0.5) / (s.conversions + RICH_CONVERSIONS) for s in weighed]
    total = math.fsum(trust)
    weighed = [replace(s, pi=t / total) for s, t in zip(weighed, trust, strict=True)]
    return tuple(sorted(weighed, key=lambda s: (-s.weight, -s.score, s.line))), note


def _differences(s: SourceSimilarity) -> dict[str, float]:
    """Every known measure in units of the difference at which no weight is left."""
    known: dict[str, float] = {}
    for name, limits in LIMITS.items():
        if (value := getattr(s, name)) is not None:
            known[name] = (abs(value) if name == "log_odds" else max(0.0, value)) / limits.gone
    if s.agreement is not None:
        known["agreement"] = max(0.0, 1.0 - s.agreement)
    return known


def _scores(found: list[SourceSimilarity]) -> list[float]:
    """1 / (1 + sum of the differences); what is not known of a source counts as the mean of the others, or a line of which little is known would rank first."""
    known = [_differences(s) for s in found]
    mean = {name: math.fsum(have) / len(have) for name in (*LIMITS, "agreement") if (have := [k[name] for k in known if name in k])}
    return [1.0 / (1.0 + math.fsum((mean | k).values())) for k in known]


def _weighed(s: SourceSimilarity, nearest: dict[str, float]) -> SourceSimilarity:
    if s.rows == 0:
        return replace(s, weight=0.0, verdict=LEFT_OUT, reason="it has no final exposures")
    factors: dict[str, float] = {}
    for name, difference in _differences(s).items():
        if name in LIMITS:
            limits = LIMITS[name]
            factors[name] = limits.factor(max(0.0, difference * limits.gone - s.noise[name] - NEAREST_SLACK * nearest.get(name, 0.0)))
    if s.agreement is not None and s.agreement_se is not None:
        factors["agreement"] = float(np.clip((s.agreement + UPPER_Z * s.agreement_se) / FULL_AGREEMENT, 0.0, 1.0))
    worst = min(factors, key=lambda name: (factors[name], name), default="")
    weight = factors.get(worst, 1.0)
    if weight < LEAST_WEIGHT:
        return replace(s, weight=0.0, verdict=LEFT_OUT, reason=WORDS[worst])
    if weight < 1.0:
        return replace(s, weight=weight, verdict=WEIGHTED, reason=WORDS[worst])
    return replace(s, weight=1.0, verdict=POOLED, reason="")
