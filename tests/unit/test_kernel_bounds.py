"""Kernels are compiled without a look at bounds; here they are compiled with one, and fed what lies at the edges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import numpy as np
from models.encode import Encoder, TrunkArrays
from models.head import Posterior, mean_prediction
from models.experts import View
from models.launch_scoring import LaunchScorer, score
from models.offset import GRID, Offset, log_prior, DEFAULT_PI
from models.trees import TreeArrays, Trees
from features.layout import USER
from features.exposures import Exposure
from features.names import names_of
from features.pending import Pending, Steps
from features.predictions import UNSAID
from features.residents import Residents

rng = np.random.default_rng(0)


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def trunk(edges_of_each, widths):
    edges = [np.sort(floats(n)) for n in edges_of_each]
    n1, n2, n3 = widths
    bins = sum(max(0, n - 1) for n in edges_of_each)
    f = len(edges)
    return TrunkArrays(
        np.zeros(f), np.ones(f), np.concatenate(edges), np.concatenate([[0], np.cumsum(edges_of_each)]).astype(np.int64),
        floats(bins, n1), floats(n1), floats(n1), floats(n1), floats(n1, n2), floats(n2), floats(n2, n3), floats(n3),
    )


for edges_of_each in ((17, 3, 17, 1), (1, 1), (17, 1, 1), (2, 17), (1, 17), (17,) * 9):
    for widths in ((1, 1, 1), (7, 5, 3), (8, 4, 2)):
        encoder = Encoder(trunk(edges_of_each, widths))
        for n in (0, 1, 3, 4, 5):
            raw = np.concatenate([rng.choice([-6.0, 0.0, 6.0], (n, len(edges_of_each))), np.ones((n, 1))], axis=1)
            assert np.isfinite(encoder.encode(raw)).all()
for d in (1, 2, 3, 4, 5, 8):
    head = Posterior(rng.normal(size=d), np.eye(d))
    for n in (0, 1, 5):
        z = rng.normal(size=(n, d))
        assert np.array_equal(head.predict(z), mean_prediction([head], [z]))
    head.learn_many(rng.normal(size=(3, d)), np.zeros(3), np.ones(3), np.ones(3))
on_z, k = 5, 8
for d_raw, d_z in ((1, 1), (6, 3), (3, 9)):
    def laid(d):
        return d + d * (d + 1) // 2
    scorers = [LaunchScorer(rng.normal(size=len(GRID) + k + laid(d_raw) + on_z * laid(d_z)), on_z) for _ in range(3)]
    view = View(rng.normal(size=(4, d_raw)), rng.normal(size=(4, d_z)), rng.normal(size=4), rng.normal(size=4))
    for rows, of in (([], []), ([3], [2]), ([0, 3, 3, 1, 2], [2, 0, 2, 0, 2])):
        assert score(scorers, view, np.array(rows, np.int64), np.array(of, np.int64)).shape == (len(rows), 2 + 2 * k)
stump = TreeArrays(np.array([0, 0]), np.array([1, 0, 0], np.int32), np.array([0.5, np.inf, np.inf]), np.array([1, 1, 2], np.int32), np.array([0.0, -1.0, 2.0]))
for n in (0, 1, 4, 6):
    assert Trees(stump).logit(rng.normal(size=(n, 3))).shape == (n,)
assert ((p := Offset.unlearned().probability(rng.normal(size=5), log_prior(DEFAULT_PI))) > 0).all() and (p < 1).all()
for most in (1, 3, 200):
    residents = Residents(USER, most)
    for first in (0, 1, 50, 0, 120):
        names = names_of([f"user{i}" for i in range(first, first + 60)])
        for some in (names._replace(keys=names.keys[:0]), names):
            _, missing = residents.find(some)
            residents.take_in(missing, [None] * len(missing.texts))
            assert (residents.look(some.keys) >= 0).all()
for most in (1, 60, 64, 65, 200):
    pending = Pending([100, 400, 1000])
    for turn in range(3):
        steps = Steps()
        ids = [f"{1000 * turn + i:016x}" for i in range(most)]
        for i, id in enumerate(ids):
            steps.open(i % 7, "line", id, True)
            steps.mark(i % 7, "line", 1 + i % 3)
        found = pending.follow(steps, names_of(list("abcdefg")), np.arange(7) + 50 * turn, 10_000)
        for place, id in zip(found[found >= 0].tolist(), ids, strict=True):
            pending.keep(place, Exposure(id, "line", "a", "line", "line", True, 0, b"", UNSAID, (-1, -1, -1), 1))
        assert pending.has_many_due(2_000, most)
        assert len(list(pending.close(350, 1))) == 1
        pending = Pending([100, 400, 1000], pending.changes()[0]) if turn == 1 else pending
    assert len(list(pending.close(5_000))) > most
print("done")
"""


def test_no_kernel_reads_beyond_its_arrays(tmp_path: Path) -> None:
    """Features without bins at the end, widths that are no multiple of four, no rows and one: the same code, compiled to look at every index."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr[-2000:]
