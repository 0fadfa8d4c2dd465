"""What is believed of a batch, in the forms in which it leaves: as numbers in a score, packed in an exposure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Raw

from features.predictions import UNSAID, packed
from streams.pair import Said

_NONE: Sequence[Any] = ()


class Beliefs(NamedTuple):
    """What is believed of a batch (`streams.pair.Said`): numbers, as a score tells them, and packed, as an exposure keeps them; without a trunk nothing is."""

    in_line: Sequence[float] = _NONE
    in_launch: Sequence[tuple[float, float]] = _NONE
    packed_in_line: tuple[bytes, int] = (b"", 0)
    packed_in_launch: tuple[bytes, int] = (b"", 0)

    @classmethod
    def of(cls, said: Said | None) -> Beliefs:
        """The same in these forms."""
        if said is None:
            return cls()
        twice = np.repeat(said.in_line, 2).reshape(-1, 2)  # in a line score and probability are one
        return cls(said.in_line.tolist(), said.in_launch[:, :2].tolist(), packed(twice), packed(said.in_launch))

    def kept_in_line(self, i: int) -> Raw:
        """What an exposure keeps of what is believed of event i in its line."""
        every, width = self.packed_in_line
        return Raw(every[width * i : width * (i + 1)]) if every else UNSAID

    def kept_in_launch(self, m: int) -> Raw:
        """What one keeps of pair m of an event and a launch."""
        every, width = self.packed_in_launch
        return Raw(every[width * m : width * (m + 1)]) if every else UNSAID
