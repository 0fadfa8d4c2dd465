"""The head as a river classifier, so that it can stand in a river pipeline beside river's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from river import base

from models.head import Posterior, Vector


class TransferredHead(base.Classifier):
    """A Bayesian logistic head over named features, learned online; from scratch, or from a posterior learned elsewhere.

    `posterior` N(m, P) over the weights of `names`, in that order, and the intercept last: what is transferred. Without it a weight starts at
    N(0, `variance`), so features want a common scale (`preprocessing.StandardScaler() | TransferredHead()`), the intercept at
    N(`intercept`, `intercept_variance`). A feature first met in `learn_one` gets a weight, up to `most_features` in all, and keeps its place; beyond
    that new names are passed over, so `names` with `most_features=0` is a fixed list. A missing feature counts as 0.
    """

    def __init__(
        self,
        posterior: Posterior | None = None,
        names: tuple[str, ...] | None = None,
        *,
        variance: float = 0.1,
        intercept: float = 0.0,
        intercept_variance: float = 1.0,
        most_features: int = 256,
    ) -> None:
        known = names or ()
        if posterior is not None and len(posterior.m) != len(known) + 1:
            raise ValueError(f"a posterior over {len(posterior.m)} weights needs {len(posterior.m) - 1} names, and the intercept; got {len(known)}")
        if len(dict.fromkeys(known)) != len(known):
            raise ValueError("a name occurs twice among names")
        if not (variance > 0.0 and intercept_variance > 0.0 and math.isfinite(intercept)):
            raise ValueError(f"variance {variance} and intercept_variance {intercept_variance} must be positive, intercept {intercept} finite")
        self.posterior = posterior
        self.names = names
        self.variance = variance
        self.intercept = intercept
        self.intercept_variance = intercept_variance
        self.most_features = most_features
        self._place: dict[base.typing.FeatureName, int] = {name: place for place, name in enumerate(known)}
        if posterior is not None:
            self._head = posterior.copy()
        else:
            self._head = Posterior.isotropic(len(known) + 1, variance=variance, intercept=intercept, intercept_variance=intercept_variance)

    def learn_one(self, x: dict[base.typing.FeatureName, Any], y: base.typing.ClfTarget) -> None:
        """Take in one final label, y true or false. ValueError for another y or a feature that is no finite number; then nothing has been learned."""
        if y not in (0, 1):
            raise ValueError(f"y is {y!r}: the head learns True and False")
        values = {name: _number(name, value) for name, value in x.items()}
        # Sorted, because a dict's order carries no meaning and the weights' order shows in the last bits.
        new = sorted((name for name in values if name not in self._place), key=str)[: max(0, self.most_features - len(self._place))]
        self._grow(new)
        self._head.learn_many(self._row(values)[None], np.zeros(1), np.ones(1), np.array([1.0 if y else 0.0]))

    def predict_proba_one(self, x: dict[base.typing.FeatureName, Any], **kwargs: Any) -> dict[base.typing.ClfTarget, float]:
        """The probabilities of False and True, moderated by the head's doubt. What is not finite counts as missing, as do features never learned."""
        values = {name: float(x[name]) for name in self._place if name in x}
        s = float(self._head.predict(self._row({name: value for name, value in values.items() if math.isfinite(value)})[None])[0])
        p = 1.0 / (1.0 + math.exp(-min(max(s, -30.0), 30.0)))
        return {False: 1.0 - p, True: p}

    def _row(self, values: dict[base.typing.FeatureName, float]) -> Vector:
        row = np.zeros(len(self._place) + 1)
        row[-1] = 1.0
        for name, value in values.items():
            if (place := self._place.get(name)) is not None:
                row[place] = value
        return row

    def _grow(self, new: list[base.typing.FeatureName]) -> None:
        """Weights for new names, before the intercept, independent of the rest."""
        if not new:
            return
        d = len(self._place)
        at = np.append(np.arange(d), d + len(new))
        m, p = np.zeros(d + len(new) + 1), np.diag(np.full(d + len(new) + 1, self.variance))
        m[at] = self._head.m
        p[np.ix_(at, at)] = self._head.p
        for name in new:
            self._place[name] = len(self._place)
        self._head = Posterior(m, p)


def _number(name: base.typing.FeatureName, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"feature {name!r} is {value!r}: no finite number, the row is refused")
    return number
