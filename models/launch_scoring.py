"""What every expert and the mixture say of rows, each in its launch, in one kernel: the same bits as asking each expert of each launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from models.experts import Deviation, Expert, Plain, Priors, Related, Shared, View
from models.forecasts import BESIDE_Z, Matrix, Vector, score_launches
from models.head import Posterior
from models.offset import EXP_MINUS_B


@dataclass(frozen=True)
class LaunchScorer:
    """A launch's beliefs, one after the other as the kernel reads them. Good until the launch learns something more.

    `believed`: the belief over its offset (141,), the mixture's weights (K,), m and the lower triangle of P of the head on raw features, and those of
    each head on the trunk's (`on_z` of them).
    """

    believed: Vector
    on_z: int

    @classmethod
    def of(cls, experts: tuple[Expert, ...], weights: Vector, priors: Priors) -> LaunchScorer:
        """Lay down what experts, in the order of `models.experts.EXPERTS`, believe."""
        shared, _, *on_z, scratch = experts
        assert isinstance(shared, Shared)
        assert isinstance(scratch, Plain)
        heads = [scratch.head, *(e.head if isinstance(e, Plain) else e.head.posterior for e in on_z if isinstance(e, Plain | Deviation | Related))]
        assert len(heads) == 1 + len(on_z)
        return cls(np.concatenate([shared.offset.weights(priors.offset), weights, *(part for head in heads for part in _laid(head))]), len(on_z))

    def __reduce__(self) -> tuple[type[LaunchScorer], tuple[Vector, int]]:
        """A copy is somewhere else: it must not take over the address."""
        return LaunchScorer, (self.believed, self.on_z)

    @cached_property
    def address(self) -> int:
        """Where the kernel finds `believed`."""
        assert self.believed.dtype == np.float64
        assert self.believed.flags.c_contiguous
        return self.believed.ctypes.data


def _laid(head: Posterior) -> tuple[Vector, Vector]:
    return head.m, head.p.ravel()[_lower(len(head.m))]


@lru_cache(maxsize=16)
def _lower(d: int) -> NDArray[np.intp]:
    """Where the lower triangle of a matrix (d, d) lies, row by row."""
    return np.flatnonzero(np.tri(d, dtype=np.bool_))


def score(scorers: Sequence[LaunchScorer], view: View, rows: NDArray[np.int64], of: NDArray[np.int64]) -> Matrix:
    """Return (n, 2 + 2 K) for some rows (n,) of the view, each as the scorer says whose number is in `of` (n,): score and probability of the mixture, and then
    of each expert. Finite.

    ValueError if a scorer belongs to a trunk of another width, or `of` has another length than `rows`; IndexError for a row or a scorer that is not there.
    """
    on_z = scorers[0].on_z if scorers else 0
    size = len(EXP_MINUS_B) + on_z + BESIDE_Z + _size(view.raw.shape[1]) + on_z * _size(view.z.shape[1])
    if any(len(scorer.believed) != size for scorer in scorers):
        raise ValueError("a launch's head belongs to a trunk of another width")
    if len(of) != len(rows):
        raise ValueError(f"{len(rows)} rows, and {len(of)} say to which launch they belong")
    addresses = np.array([scorer.address for scorer in scorers], np.int64)
    out = np.empty((len(rows), 2 + 2 * (on_z + BESIDE_Z)))
    score_launches(view.raw, view.z, view.s, view.s0, rows, of, addresses, EXP_MINUS_B, on_z, out)
    return out


def _size(d: int) -> int:
    return d + d * (d + 1) // 2
