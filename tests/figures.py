"""The dashboard's figures of a launch, computed another way: from the outcomes that lie on the topic, one by one, without any histogram."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from features.exposures import NONE
from models import metrics
from models.sketches import bins_of, centre
from streams.records import Outcome


def figures_of(outcomes: Iterable[Outcome], launch: str) -> dict[str, Any]:
    """What `streams.panels_launch.figures` must say of a launch, as far as outcomes tell; each outcome once."""
    mine = [m.closed for m in outcomes if m.key == launch and m.closed.exposure.said()]
    final = [c for c in mine if c.label != NONE]
    y = np.array([c.label for c in final], np.float64)
    said = np.array([c.exposure.said()[:2] for c in final], np.float64).reshape(len(final), 2)
    rounded = np.array([centre(k) for k in bins_of(said[:, 0]).tolist()])
    return {
        "exposures": sum(c.bin == 1 for c in mine),
        "orders": sum(c.y for c in mine),
        "final": len(final),
        "final_orders": int(y.sum()),
        "clicked": sum(c.exposure.delay_ms[0] != NONE for c in final),
        "carted": sum(c.exposure.delay_ms[1] != NONE for c in final),
        "conversion": float(y.mean()) if len(final) else math.nan,
        "final_came_foretold": float(y.sum() / said[:, 1].sum()) if len(final) else math.nan,
        "auc": metrics.auc(y, rounded),
        "precision_at_5pct": metrics.precision_at(0.05, y, rounded),
        "log_loss": metrics.log_loss(y, said[:, 1]),
    }
