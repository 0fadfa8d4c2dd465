"""The ways of transfer, each as one small expert that forecasts a launch's conversions. Every expert sees the same outcomes.

| family | expert |
| --- | --- |
| parameter-based | `shared` (the default: shared heads that stay fresh, and the launch's own level), `frozen`, `deviation` and `deviation_wide` (the launch's own slopes, from the empirical-Bayes prior and from one four times wider) |
| feature-based | `feature`: a head from nothing on the trunk's features |
| instance-based | `instance`: a head refitted on source rows that are weighted towards the launch's shoppers |
| relation-based | `relation`: a head taken from the source lines that are nearest |
| none | `scratch`: a head from nothing on raw features, so that negative transfer is bounded |

What an expert believes before it has learned is in `Priors`, the same for all launches; the expert itself holds only what its launch has taught.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.head import Matrix, Posterior, Vector
from models.hierarchy import Hierarchy
from models.instances import Sample, refit
from models.logistic import sigmoid
from models.offset import Offset
from models.own_head import OwnHead
from models.wire import square, triangle

Arrays = dict[str, NDArray[np.generic]]

EXPERTS = ("shared", "frozen", "deviation", "deviation_wide", "feature", "instance", "relation", "scratch")
BASE_PRIOR = np.array([0.93, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01])
"""How the weight is spread over `EXPERTS` before any launch has been seen: the default has most of it, none less than one part in a hundred."""

REFIT_AT = (100, 400, 1600)
RELATE_AT = (50, 200, 800)
"""After how many exposures the instance- and the relation-based prior are made anew from what the launch's shoppers look like."""

NEAREST = 3


class View(NamedTuple):
    """N rows as experts see them: `raw` (N, F + 1), `z` (N, D + 1), and the logits (N,) of the shared heads now (`s`) and as pre-training left them (`s0`)."""

    raw: Matrix
    z: Matrix
    s: Vector
    s0: Vector

    def part(self, rows: slice) -> View:
        """Some of the rows."""
        return View(self.raw[rows], self.z[rows], self.s[rows], self.s0[rows])


class Facts(NamedTuple):
    """N closed delay bins, (N,) each: F before and after the bin, whether the order came in it (1.0 or 0.0), and the event time at which it closed."""

    f_prev: Vector
    f_next: Vector
    y: Vector
    close_ms: NDArray[np.int64]

    def part(self, rows: slice) -> Facts:
        """Some of the rows."""
        return Facts(self.f_prev[rows], self.f_next[rows], self.y[rows], self.close_ms[rows])


class Prediction(NamedTuple):
    """One expert's view of N rows: `score` ranks, `probability` counts; (N,) each, in [0, 1]."""

    score: Vector
    probability: Vector


@dataclass(frozen=True)
class Priors:
    """What experts believe before a launch: made from an artifact, immutable."""

    offset: Vector
    deff: float
    half_life_ms: float
    deviation: Posterior
    deviation_wide: Posterior
    feature: Posterior
    scratch: Posterior
    source: Posterior  # of the instance-based expert, until it has been refitted
    hierarchy: Hierarchy
    profiles: Matrix  # (M, D + 1): the source lines' mean z
    scale: Vector  # (D + 1,): the deviation of z over source rows
    sample: Sample
    glide: float  # of the deviation heads: the share of what was learned that is forgotten in a day


class Expert(Protocol):
    """What every way of transfer can do. `predict` is pure; `learn_many` gives the same bits as its rows one at a time."""

    def predict(self, priors: Priors, view: View) -> Prediction:
        """Forecast N rows."""

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        """Take in N closed bins in the given order. Returns p (N,): the probability that `predict` gave each row just before it was learned, to rounding."""

    def copy(self) -> Self:
        """Another belief with the same content."""

    def to_arrays(self) -> Arrays:
        """Every bit of the state."""


@dataclass
class Shared:
    """The default: the shared heads, which the source lines keep fresh, and the launch's own level."""

    offset: Offset = field(default_factory=Offset.unlearned)

    def predict(self, priors: Priors, view: View) -> Prediction:
        return Prediction(sigmoid(view.s), self.offset.probability(view.s, priors.offset))

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        return self.offset.learn_many(view.s, *facts, prior=priors.offset, deff=priors.deff, half_life_ms=priors.half_life_ms)

    def copy(self) -> Shared:
        return Shared(self.offset.copy())

    def to_arrays(self) -> Arrays:
        return {"evidence": self.offset.evidence, "last_ms": self.offset.last_ms}

    @classmethod
    def from_arrays(cls, a: Arrays) -> Shared:
        """The inverse of `to_arrays`."""
        return cls(Offset(a["evidence"].astype(np.float64), a["last_ms"].astype(np.int64)))


@dataclass
class Frozen:
    """The shared heads as pre-training left them; learns nothing."""

    def predict(self, priors: Priors, view: View) -> Prediction:
        p = sigmoid(view.s0)
        return Prediction(p, p)

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        return sigmoid(view.s0)

    def copy(self) -> Frozen:
        return Frozen()

    def to_arrays(self) -> Arrays:
        return {}


@dataclass
class Plain:
    """A head from nothing that only the launch's own outcomes teach, on raw features or on the trunk's."""

    head: Posterior
    on_raw: bool

    def predict(self, priors: Priors, view: View) -> Prediction:
        p = sigmoid(self.head.predict(view.raw if self.on_raw else view.z))
        return Prediction(p, p)

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        return sigmoid(self.head.learn_many(view.raw if self.on_raw else view.z, facts.f_prev, facts.f_next, facts.y))

    def copy(self) -> Plain:
        return Plain(self.head.copy(), self.on_raw)

    def to_arrays(self) -> Arrays:
        return {"m": self.head.m, "p": triangle(self.head.p)}

    @classmethod
    def from_arrays(cls, a: Arrays, *, on_raw: bool) -> Plain:
        """The inverse of `to_arrays`."""
        m = a["m"].astype(np.float64)
        return cls(Posterior(m, square(a["p"].astype(np.float64), len(m))), on_raw)


@dataclass
class Deviation:
    """The launch's own slopes on the trunk's features: a head that starts from the prior over lines, and glides back to it with time."""

    head: OwnHead

    def predict(self, priors: Priors, view: View) -> Prediction:
        p = sigmoid(self.head.predict(view.z))
        return Prediction(p, p)

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        return sigmoid(self.head.learn_many(view.z, *facts, rho=priors.glide))

    def copy(self) -> Deviation:
        return Deviation(self.head.copy())

    def to_arrays(self) -> Arrays:
        return self.head.to_arrays()


@dataclass
class Related:
    """A head on the trunk's features whose prior is made anew at some counts from what the launch's shoppers look like, labels apart.

    `profile` (D + 2,): the sum of z over the launch's exposures, and how many they are; an exposure is counted when its first bin closes.
    """

    head: OwnHead
    profile: Vector
    by_instances: bool

    def predict(self, priors: Priors, view: View) -> Prediction:
        p = sigmoid(self.head.predict(view.z))
        return Prediction(p, p)

    def learn_many(self, priors: Priors, view: View, facts: Facts) -> Vector:
        if len(facts.y) == 0:
            return np.empty(0)
        first = np.cumsum(facts.f_prev == 0.0) + int(self.profile[-1])
        marks = REFIT_AT if self.by_instances else RELATE_AT
        stops = sorted({int(np.searchsorted(first, n)) + 1 for n in marks if self.profile[-1] < n <= first[-1]} | {len(first)})
        before, start = [np.empty(0)], 0
        for stop in stops:
            rows = slice(start, stop)
            z, f_prev = view.z[rows], facts.f_prev[rows]
            before.append(self.head.learn_many(z, *facts.part(rows)))
            for row in z[f_prev == 0.0]:
                self.profile[:-1] += row
                self.profile[-1] += 1.0
            if self.profile[-1] in marks and f_prev[-1] == 0.0:
                self._rebase(priors)
            start = stop
        return sigmoid(np.concatenate(before))

    def _rebase(self, priors: Priors) -> None:
        seen = self.profile[:-1] / self.profile[-1]
        if self.by_instances:
            if (found := refit(priors.sample, seen, int(self.profile[-1]))) is not None:
                self.head.rebase(found)
        else:
            self.head.rebase(Posterior(priors.hierarchy.nearest(seen, priors.profiles, NEAREST, priors.scale), priors.deviation.p))

    def copy(self) -> Related:
        return Related(self.head.copy(), self.profile.copy(), self.by_instances)

    def to_arrays(self) -> Arrays:
        return {**self.head.to_arrays(), "profile": self.profile}

    @classmethod
    def from_arrays(cls, a: Arrays, *, by_instances: bool) -> Related:
        """The inverse of `to_arrays`."""
        return cls(OwnHead.from_arrays(a), a["profile"].astype(np.float64), by_instances)


def fresh_experts(priors: Priors) -> tuple[Expert, ...]:
    """Return the experts of a launch that has learned nothing, in the order of `EXPERTS`."""
    nowhere = np.zeros(priors.profiles.shape[1] + 1)
    return (
        Shared(),
        Frozen(),
        Deviation(OwnHead.start(priors.deviation)),
        Deviation(OwnHead.start(priors.deviation_wide)),
        Plain(priors.feature.copy(), on_raw=False),
        Related(OwnHead.start(priors.source), nowhere.copy(), by_instances=True),
        Related(OwnHead.start(priors.deviation), nowhere, by_instances=False),
        Plain(priors.scratch.copy(), on_raw=True),
    )


def restored_experts(states: dict[str, Arrays]) -> tuple[Expert, ...]:
    """Return the experts whose states were stored, by name."""
    return (
        Shared.from_arrays(states["shared"]),
        Frozen(),
        Deviation(OwnHead.from_arrays(states["deviation"])),
        Deviation(OwnHead.from_arrays(states["deviation_wide"])),
        Plain.from_arrays(states["feature"], on_raw=False),
        Related.from_arrays(states["instance"], by_instances=True),
        Related.from_arrays(states["relation"], by_instances=False),
        Plain.from_arrays(states["scratch"], on_raw=True),
    )
