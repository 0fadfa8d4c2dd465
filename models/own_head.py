"""A launch's own head: a posterior that remembers which prior it started from, and glides back to it by time.

In natural parameters Λ = P⁻¹, η = Λ m a posterior is its prior plus evidence, so two things are exact: forgetting takes a share of the evidence away,
`Λ ← (1 − r) Λ + r Λ0`, `η ← (1 − r) η + r η0`, and another prior can be put under the same evidence, `Λ += Λ0' − Λ0`, `η += η0' − η0`.
Learning itself stays in (m, P), where an outcome costs O(d²).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import Mismatch
from models import wire
from models.head import Matrix, Posterior, Vector, check_outcomes

HOUR_MS = 3_600_000
NEVER_HOUR = -(2**62)
"""`hour` of a head that has learned nothing."""


@dataclass
class OwnHead:
    """`posterior` N(m, P), the `prior` N(m0, P0) that it forgets towards, and `hour`, the event-time hour up to which it has glided. Mutable.

    The prior is kept by reference and never changed, so launches and copies share one; the posterior is the head's own.
    """

    posterior: Posterior
    prior: Posterior
    hour: int = NEVER_HOUR

    def __post_init__(self) -> None:
        if self.posterior.m.shape != self.prior.m.shape:
            raise ValueError(f"the posterior has {len(self.posterior.m)} weights, the prior {len(self.prior.m)}")

    @classmethod
    def start(cls, prior: Posterior) -> OwnHead:
        """The head of a launch that has learned nothing: its prior."""
        return cls(prior.copy(), prior)

    def copy(self) -> OwnHead:
        """Another belief with the same content."""
        return OwnHead(self.posterior.copy(), self.prior, self.hour)

    def predict(self, z: Matrix) -> Vector:
        """Return s (N,) for z (N, d), the moderated logits. Pure: the head does not glide by being asked."""
        return self.posterior.predict(z)

    def learn_many(self, z: Matrix, f_prev: Vector, f_next: Vector, y: Vector, close_ms: NDArray[np.int64], *, rho: float = 0.0) -> Vector:
        """Take in N outcomes in the given order, as `Posterior.learn_many`; the same bits as one row at a time. Returns s (N,) before each row, as `predict` to rounding.

        `close_ms` (N,): event time. A row of a later hour than any before it first makes the head forget, a share `rho` of its evidence for each day
        that has passed, in whole hours; 0: never. What is returned of a row is said after that. ValueError for anything not finite or out of range; then nothing has been learned or forgotten.
        """
        f_prev, f_next, y = (np.ascontiguousarray(a, dtype=np.float64) for a in (f_prev, f_next, y))
        close_ms = np.ascontiguousarray(close_ms, dtype=np.int64)
        z = np.ascontiguousarray(z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != len(self.posterior.m) or close_ms.shape != (len(z),):
            raise ValueError(f"rows are {z.shape}, close_ms {close_ms.shape}: the head takes (N, {len(self.posterior.m)}) and (N,)")
        check_outcomes(len(z), f_prev, f_next, y)
        if not np.isfinite(z).all() or not 0.0 <= rho < 1.0:
            raise ValueError(f"z is not finite, or rho {rho} not in 0 ≤ rho < 1: outcome refused")
        hours = np.maximum.accumulate(np.append(self.hour, close_ms // HOUR_MS))
        if rho == 0.0:
            before = self.posterior.learn_many(z, f_prev, f_next, y)
            self.hour = int(hours[-1])
            return before
        before = np.empty(len(z))
        starts = np.flatnonzero(np.diff(hours) > 0)
        for first, end in zip(np.union1d(starts, [0]), np.append(starts[starts > 0], len(z)), strict=True):
            part = slice(int(first), int(end))
            self._glide(int(hours[end]), rho)
            before[part] = self.posterior.learn_many(z[part], f_prev[part], f_next[part], y[part])
        return before

    def rebase(self, prior: Posterior) -> bool:
        """Put another prior under the same evidence, exactly. False if that gives no proper belief: then the head is the new prior, its evidence lost.

        ValueError, and the head unchanged, if the new prior has another size or is not a proper belief itself.
        """
        if prior.m.shape != self.prior.m.shape:
            raise ValueError(f"the new prior has {len(prior.m)} weights, the head {len(self.prior.m)}")
        if not np.isfinite(prior.m).all() or not np.isfinite(prior.p).all() or not np.linalg.eigvalsh(prior.p)[0] > 0.0:
            raise ValueError("the new prior is not finite, or its covariance not positive definite")
        old, new, now = _natural(self.prior), _natural(prior), _natural(self.posterior)
        moved = _from_natural(now[0] + (new[0] - old[0]), now[1] + (new[1] - old[1]))
        self.posterior, self.prior = moved if moved is not None else prior.copy(), prior
        return moved is not None

    def to_arrays(self, known: Posterior | None = None) -> dict[str, NDArray[np.generic]]:
        """Every bit of the state. If the prior's covariance is that of `known` (the model's own prior), only its checksum is stored: half the bytes."""
        shared = known is not None and known.p.tobytes() == self.prior.p.tobytes()
        return {
            "hour": np.array([self.hour], dtype=np.int64),
            "m": self.posterior.m,
            "p": wire.triangle(self.posterior.p),
            "prior.m": self.prior.m,
            "prior.p": np.array([zlib.crc32(self.prior.p.tobytes())], dtype=np.int64) if shared else wire.triangle(self.prior.p),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]], known: Posterior | None = None) -> OwnHead:
        """Exactly what was stored. Mismatch if the prior's covariance was left out, and `known` is not the one that it had."""
        m, prior_m, prior_p = arrays["m"].astype(np.float64), arrays["prior.m"].astype(np.float64), arrays["prior.p"]
        if np.issubdtype(prior_p.dtype, np.integer):
            if known is None or known.m.shape != m.shape or zlib.crc32(known.p.tobytes()) != int(prior_p[0]):
                raise Mismatch("the stored head of this launch rests on another prior than this model's: use the artifact that it was learned with")
            prior = known if known.m.tobytes() == prior_m.tobytes() else Posterior(prior_m, known.p)
        else:
            prior = Posterior(prior_m, wire.square(prior_p.astype(np.float64), len(m)))
        return cls(Posterior(m, wire.square(arrays["p"].astype(np.float64), len(m))), prior, int(arrays["hour"][0]))

    def _glide(self, hour: int, rho: float) -> None:
        """Forget for the hours since the last time. A head that has learned nothing has nothing to forget."""
        passed, known = hour - self.hour, self.hour != NEVER_HOUR
        self.hour = hour
        if passed <= 0 or not known:
            return
        keep = (1.0 - rho) ** (passed / 24.0)
        start, now = _natural(self.prior), _natural(self.posterior)
        moved = _from_natural(keep * now[0] + (1.0 - keep) * start[0], keep * now[1] + (1.0 - keep) * start[1])
        self.posterior = moved if moved is not None else self.prior.copy()


def _natural(belief: Posterior) -> tuple[Matrix, Vector]:
    """Λ (d, d) and η (d,)."""
    precision = np.asarray(np.linalg.inv(belief.p), dtype=np.float64)
    return precision, np.asarray(precision @ belief.m)


def _from_natural(precision: Matrix, eta: Vector) -> Posterior | None:
    """N(Λ⁻¹ η, Λ⁻¹), exactly symmetric; None if Λ is not positive definite."""
    precision = (precision + precision.T) / 2.0
    try:
        np.linalg.cholesky(precision)
        p = np.linalg.inv(precision)
    except np.linalg.LinAlgError:
        return None
    p = (p + p.T) / 2.0
    m = p @ eta
    return Posterior(m, p) if np.isfinite(m).all() and np.isfinite(p).all() else None
