"""Outcomes of one head as the arrays that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.exposures import Closed
from features.predictions import are, unpacked
from features.vector import WIDTH
from models.experts import EXPERTS
from models.launch_head import MODELS


def arrays_of(rows: Sequence[Closed]) -> tuple[Any, Any, Any, Any, Any]:
    """Return x (N, F), bin (N,) from 0 or -1, y (N,), final label (N,) or -1, and close time (N,)."""
    x = np.frombuffer(b"".join(c.exposure.x for c in rows), np.float32).reshape(len(rows), WIDTH).copy()
    columns = np.array([(c.bin - 1, c.y, c.label, c.close_ms) for c in rows], np.int64).reshape(len(rows), 4)
    return x, *(np.ascontiguousarray(columns[:, i]) for i in range(4))  # type: ignore[return-value]


def experts_said(rows: Sequence[Closed]) -> NDArray[np.float64]:
    """Return the probability (N, K) that each expert gave when an exposure was scored; NaN for one that was scored by other experts."""
    said, width = np.full((len(rows), len(EXPERTS)), np.nan), 2 * len(MODELS)
    known = [i for i, c in enumerate(rows) if are(c.exposure.predictions, width)]
    said[known] = unpacked([rows[i].exposure.predictions for i in known], width)[:, 3::2]
    return said
