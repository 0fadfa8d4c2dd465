"""The transfer ledger as it goes onto a score record: the parts of the probability, and the features that moved it most."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.explain import ledger
from streams.pair import Pair
from streams.records import Explanation, Launch

MOST_FEATURES: Final = 10
FIRST_STEPS, MOST_STEPS = 4, 8
"""Of the way from the mean shopper to this one: enough to name what moved the score; `headstart explain` takes finer ones."""


def explanation(pair: Pair, launch: Launch | None, x: NDArray[np.float32]) -> Explanation:
    """Take apart what is believed of a vector (F,) in a launch, or without one in its line."""
    head = pair.head(launch.id) if launch is not None else None
    book = ledger(pair.model, pair.shared, head, x, first_steps=FIRST_STEPS, most_steps=MOST_STEPS)
    shares = book.features.shares
    order = np.argsort(-np.abs(shares), kind="stable")[:MOST_FEATURES]
    told = {book.feature_names[j]: float(shares[j]) for j in order.tolist() if shares[j]}
    return Explanation(
        logit=book.logit,
        parts=book.parts,
        heads={name: part + book.fresh_heads[name] for name, part in book.s0_heads.items()},
        sd=book.total_sd,
        experts={expert.name: [expert.weight, expert.probability, expert.part] for expert in book.experts},
        start=book.features.start,
        features=told,
        others=float(shares.sum()) - sum(told.values()),
        residual=book.features.residual,
    )
