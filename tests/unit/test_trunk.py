"""The trunk: the kernel equals torch, a row's bits do not depend on its batch, and training is deterministic."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from features.kernel import CACHE_LINE
from models.encode import CLIP, Encoder, TrunkArrays, standardise
from models.pretrain import fit_scaler
from models.trunk import MOST_PARAMETERS, Trunk, TrunkSettings, plan_edges, quantile_edges, train_trunk
from tests.unit.synthetic_rows import make_rows

QUICK = TrunkSettings(most_steps=40)


def random_trunk(features: int = 60, seed: int = 0, settings: TrunkSettings = QUICK) -> tuple[Trunk, np.ndarray]:
    """A trunk with random weights in every layer, and rows for it; its second feature is the same in all of them."""
    rows = make_rows(1500, features, seed=seed)
    rows.x[:, 1] = 3.0
    mean, std = fit_scaler(rows.x)
    torch.manual_seed(seed)
    trunk = Trunk(mean, std, plan_edges(standardise(rows.x, mean, std)[:, :-1], settings), settings)
    with torch.no_grad():
        for p in trunk.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return trunk.eval(), rows.x


@pytest.mark.parametrize("settings", [QUICK, TrunkSettings(bins=5, width=37, middle=7, outputs=3), TrunkSettings(bins=2, width=6, middle=5, outputs=2)])
def test_the_kernel_is_the_torch_module(settings: TrunkSettings) -> None:
    """The folded trunk and the torch module, rebuilt from the same stored arrays, agree to 1e-5 on inliers and outliers."""
    trunk, x = random_trunk(settings=settings)
    arrays = trunk.to_arrays()
    x[:50] *= 100.0
    x[50:100] = -x[50:100]
    with torch.no_grad():
        expected = Trunk.from_arrays(arrays)(torch.from_numpy(x)).numpy()
    z = Encoder(arrays).encode(standardise(x, arrays.mean, arrays.std))
    np.testing.assert_allclose(z[:, :-1], expected, atol=1e-5)
    assert (z[:, -1] == 1.0).all()
    assert np.std(expected, axis=0).min() > 0.01


def test_a_row_has_the_same_bits_in_every_batch() -> None:
    """Alone, in batches of 7, 64 and 1 000, and permuted: the same bytes."""
    trunk, x = random_trunk()
    arrays = trunk.to_arrays()
    encoder = Encoder(arrays)

    def encode(rows: np.ndarray) -> np.ndarray:
        return encoder.encode(standardise(rows, arrays.mean, arrays.std))

    whole = encode(x)
    for size in (1, 7, 64, 1000):
        assert np.concatenate([encode(x[i : i + size]) for i in range(0, len(x), size)]).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(len(x))
    assert encode(x[order]).tobytes() == whole[order].tobytes()


def test_a_trunks_arrays_begin_with_a_line_of_the_cache() -> None:
    """Else a process runs it a tenth slower, by chance and for as long as it lives."""
    arrays = random_trunk()[0].to_arrays()
    encoders = [Encoder(arrays) for _ in range(5)]
    assert all(array.ctypes.data % CACHE_LINE == 0 for encoder in encoders for array in encoder._layers)


def test_a_value_at_an_edge_is_the_torch_modules() -> None:
    """Each feature in turn at its lowest edge, at one in the middle, at its highest, and just beside each."""
    trunk, x = random_trunk(features=9)
    arrays = trunk.to_arrays()
    raw = np.repeat(standardise(x[:1], arrays.mean, arrays.std), 9 * 9, axis=0)
    for j, (start, stop) in enumerate(zip(arrays.starts[:-1], arrays.starts[1:], strict=True)):
        edges = arrays.edges[start:stop][[0, (stop - start) // 2, -1]]
        raw[9 * j : 9 * j + 9, j] = np.concatenate([np.nextafter(edges, np.float32(-9)), edges, np.nextafter(edges, np.float32(9))])
    z = Encoder(arrays).encode(raw)
    with torch.no_grad():
        expected = Trunk(np.zeros(9), np.ones(9), trunk.edges, QUICK).eval()
        expected.load_state_dict({**trunk.state_dict(), "mean": torch.zeros(9, dtype=torch.float64), "std": torch.ones(9, dtype=torch.float64)})
        np.testing.assert_allclose(z[:, :-1], expected(torch.from_numpy(raw[:, :-1])).numpy(), atol=1e-5)


def test_nothing_that_arrives_leaves_the_scale() -> None:
    """NaN, infinities and huge numbers give finite maps: raw within ±6, |z| below √32."""
    trunk, x = random_trunk()
    arrays = trunk.to_arrays()
    x[0], x[1], x[2], x[3] = np.nan, np.inf, -np.inf, 3e38
    raw = standardise(x, arrays.mean, arrays.std)
    z = Encoder(arrays).encode(raw)
    assert np.abs(raw).max() <= CLIP
    assert np.isfinite(z).all()
    assert np.linalg.norm(z[:, :-1], axis=1).max() < np.sqrt(32)


def test_the_trunk_is_small() -> None:
    """Sixty or ninety wide-ranging features: bins are given up until at most 200 000 parameters remain; a bigger trunk cannot be made."""
    rng = np.random.default_rng(0)
    for features in (60, 90):
        edges = plan_edges(rng.normal(size=(2000, features)), TrunkSettings())
        trunk = Trunk(np.zeros(features), np.ones(features), edges, TrunkSettings())
        assert 150_000 < sum(p.numel() for p in trunk.parameters()) <= MOST_PARAMETERS
    with pytest.raises(ValueError, match="parameters"):
        Trunk(np.zeros(90), np.ones(90), [np.arange(17, dtype=np.float32)] * 90, TrunkSettings())


def test_edges_rise_and_are_not_all_spent_on_zero() -> None:
    """A counter that is zero nine times in ten still gets several bins among its other values; a constant gets none."""
    rng = np.random.default_rng(0)
    counter = np.where(rng.random(5000) < 0.9, 0.0, rng.exponential(size=5000))
    edges = quantile_edges(counter, 12)
    assert (np.diff(edges) > 0).all()
    assert 10 <= len(edges) <= 13
    assert len(quantile_edges(np.full(100, 2.0), 12)) == 1


def test_training_is_deterministic_and_leaves_torch_alone() -> None:
    """The same rows and seed give the same bits, another seed does not; the global random state is untouched."""
    rows = make_rows(1200)
    mean, std = fit_scaler(rows.x)
    state = torch.random.get_rng_state()

    def arrays(seed: int) -> TrunkArrays:
        return train_trunk(rows, mean, std, seed=seed, settings=QUICK)[0].to_arrays()

    first, second, other = arrays(1), arrays(1), arrays(2)
    assert all(a.tobytes() == second.as_dict()[name].tobytes() for name, a in first.as_dict().items())
    assert first.w1.tobytes() != other.w1.tobytes()
    assert torch.equal(state, torch.random.get_rng_state())


def test_held_out_users_are_whole() -> None:
    """No user is on both sides of early stopping."""
    rows = make_rows(1200)
    mean, std = fit_scaler(rows.x)
    _, held_out = train_trunk(rows, mean, std, seed=0, settings=QUICK)
    assert not set(rows.user[held_out]) & set(rows.user[~held_out])
    assert 0.05 < held_out.mean() < 0.35


def test_training_that_stops_early_tells_that_it_is_over() -> None:
    """What is shown of it ends full, at the steps that were taken and not at those that were allowed."""
    rows = make_rows(600, 20)
    mean, std = fit_scaler(rows.x)
    told: list[tuple[int, int]] = []
    settings = TrunkSettings(most_steps=100_000, patience=1)
    train_trunk(rows, mean, std, seed=0, settings=settings, progress=lambda _, done, of: told.append((done, of)))
    assert told[-1][0] == told[-1][1] < settings.most_steps
    assert all(done < of == settings.most_steps for done, of in told[:-1])


def test_scoring_needs_no_torch() -> None:
    """Importing what scores and what loads an artifact does not import torch."""
    code = "import sys, models.model, models.checkpoint, models.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
