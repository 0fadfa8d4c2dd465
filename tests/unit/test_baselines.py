"""Baselines: none knows the future, those from nothing know no source, and each has learned what it says it learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.errors import InputError
from models.baselines import BASELINES, START_WEIGHT, rehearse_baselines
from models.encode import standardise
from models.head import Vector
from models.metrics import auc, log_loss
from models.river_baselines import START_RATE, adpredictor
from models.rows import Rows
from models.sgd import METHODS, NEVER_MS, rehearse_sgd
from tests.unit.synthetic_rows import WINDOW_S, make_rows

DAY_MS = 86_400_000
AT_MS = 4 * DAY_MS
TICK_MS = 1_800_000
EDGES_S = np.array([0.0, 900.0, 7200.0, 21_600.0, WINDOW_S])
FROM_NOTHING = ("base_rate", "adpredictor", "ftrl", "lightgbm_scratch")
FROZEN = ("lr_frozen", "lightgbm_frozen")


def a_log(n: int = 4000, *, seed: int = 0, shift: float = 0.0) -> Rows:
    """Rows of four lines at different times; line 0 is the launch, has no past, and converts `shift` logits more often."""
    rows, others = make_rows(n, seed=seed, shift=shift), make_rows(n, seed=seed)
    own = rows.line == 0
    rows = replace(rows, delay_s=np.where(own[:, None], rows.delay_s, others.delay_s), ts_ms=rows.ts_ms + np.arange(n))
    return rows.select(~own | (rows.ts_ms >= AT_MS))


def rehearse(rows: Rows, *names: str) -> dict[str, Vector]:
    """What the named baselines, or all, say of line 0."""
    return rehearse_baselines(rows, 0, at_ms=AT_MS, trained_until_ms=AT_MS, edges_s=EDGES_S, tick_ms=TICK_MS, names=names or BASELINES)


def with_other_future(rows: Rows, until_ms: int) -> Rows:
    """The same log up to a time; of what was open then the outcome is turned round, and what comes after the tick that then begins has other features."""
    order_ms = rows.ts_ms + 1000 * np.where(np.isfinite(rows.order_delay_s), rows.order_delay_s, 0.0)
    is_open = (rows.ts_ms + round(1000 * WINDOW_S) > until_ms) & ((order_ms > until_ms) | ~np.isfinite(rows.order_delay_s))
    left_s = np.clip((until_ms - rows.ts_ms) / 1000 + 1.0, 1.0, WINDOW_S)
    delay_s = rows.delay_s.copy()
    delay_s[is_open, 2] = np.where(np.isfinite(delay_s[is_open, 2]), np.inf, left_s[is_open])
    x = np.where((rows.ts_ms >= until_ms + TICK_MS)[:, None], rows.x + 1, rows.x).astype(np.float32)
    return replace(rows, delay_s=delay_s, x=x)


def test_nobody_knows_the_future() -> None:
    """Another outcome of all that is open at a time changes no bit of what was said up to then, nor in the tick that then begins; the oracle alone knew."""
    rows = a_log()
    until_ms = 7 * DAY_MS + 5 * TICK_MS
    before, after = rehearse(rows), rehearse(with_other_future(rows, until_ms))
    said = rows.ts_ms[rows.line == 0] < until_ms + TICK_MS
    changed = {name for name in BASELINES if not np.array_equal(before[name][said], after[name][said])}
    assert changed == {"oracle_sgd"}
    assert (rows.ts_ms[(rows.line == 0)][said] > until_ms).sum() >= 3


def test_learners_learn_from_the_launch_and_the_frozen_do_not() -> None:
    """Other outcomes of the launch's first days change what every baseline but the frozen ones says later."""
    rows = a_log()
    early = (rows.line == 0) & (rows.ts_ms < AT_MS + DAY_MS) & (np.arange(len(rows)) % 3 == 0)
    other = rows.delay_s.copy()
    other[early, 2] = 600.0
    before, after = rehearse(rows), rehearse(replace(rows, delay_s=other))
    late = rows.ts_ms[rows.line == 0] > AT_MS + 4 * DAY_MS
    assert {name for name in BASELINES if np.array_equal(before[name][late], after[name][late])} == set(FROZEN)


def test_those_from_nothing_see_no_label_of_the_sources() -> None:
    """Turning every source label round changes no bit of them, and changes all others."""
    rows = a_log()
    theirs = (rows.line != 0)[:, None]
    turned = replace(rows, delay_s=np.where(theirs, np.where(np.isfinite(rows.delay_s), np.inf, 5000.0), rows.delay_s))
    before, after = rehearse(rows), rehearse(turned)
    assert {name for name in BASELINES if np.array_equal(before[name], after[name])} == set(FROM_NOTHING)


def test_predictions_are_in_the_order_of_the_rows() -> None:
    """Shuffled rows get the same predictions to the bit, each at its row: the order in which a log is kept says nothing."""
    rows = a_log(2500)
    shuffled = np.random.default_rng(3).permutation(len(rows))
    own = rows.line == 0
    place = np.cumsum(own) - 1
    before, after = rehearse(rows, "base_rate", "adpredictor", "ftrl", *METHODS), rehearse(rows.select(shuffled), "base_rate", "adpredictor", "ftrl", *METHODS)
    where = place[shuffled[own[shuffled]]]
    for name in before:
        # The sources' sums run in another order, and so may differ in their last bits.
        np.testing.assert_allclose(after[name], before[name][where], rtol=1e-9, err_msg=name)


def test_the_base_rate_by_hand() -> None:
    """A row's outcome counts from the first tick that begins when its window is over, not within the tick."""
    rows = a_log()
    p = rehearse(rows, "base_rate")["base_rate"]
    own = np.flatnonzero(rows.line == 0)
    for i in (0, 40, len(own) // 2, len(own) - 1):
        now = rows.ts_ms[own[i]] // TICK_MS * TICK_MS
        known = own[rows.ts_ms[own] + round(1000 * WINDOW_S) <= now]
        assert p[i] == pytest.approx((rows.ordered[known].sum() + START_RATE * START_WEIGHT) / (len(known) + START_WEIGHT), abs=1e-15)


def test_trees_from_nothing_wait_for_ten_orders() -> None:
    """On its first day such a launch knows nothing final, and all its rows get the same; later shoppers are told apart."""
    rows = a_log()
    said = rehearse(rows, "lightgbm_scratch", "base_rate")
    first = rows.ts_ms[rows.line == 0] < AT_MS + DAY_MS
    np.testing.assert_array_equal(said["lightgbm_scratch"][first], said["base_rate"][first])
    assert len(np.unique(said["lightgbm_scratch"][~first])) > 20


def test_transfer_shows() -> None:
    """Where lines are alike, what starts from the sources ranks better than what starts from nothing."""
    rows = a_log(6000)
    y = rows.ordered[rows.line == 0]
    found = {name: auc(y, p) for name, p in rehearse(rows).items()}
    assert min(found[name] for name in BASELINES if name not in FROM_NOTHING) > max(found[name] for name in FROM_NOTHING) > 0.5


def test_the_oracle_bounds_what_waits() -> None:
    """On a launch whose level is higher by 1.5 logits, labels at once beat labels after the window, and both beat the frozen head."""
    rows = a_log(6000, shift=1.5)
    y = rows.ordered[rows.line == 0]
    loss = {name: log_loss(y, p) for name, p in rehearse(rows, "lr_frozen", *METHODS).items()}
    assert loss["oracle_sgd"] < loss["wait_sgd"] < loss["lr_frozen"]
    assert loss["oracle_sgd"] < min(loss["fnw_sgd"], loss["es_dfm_sgd"])


@pytest.mark.parametrize("method", METHODS)
def test_importance_weights_find_the_true_rate(method: str) -> None:
    """A rate of .4 is found from .5, although fake negatives show two exposures for each order: without weights it would be .4 / 1.4."""
    rng = np.random.default_rng(1)
    n, mean_s, elapsed_s, window_s = 20_000, 3000.0, 900.0, 30_000.0
    ts_ms = np.sort(rng.integers(0, 400_000_000, n))
    delay_s = np.minimum(rng.exponential(mean_s, n), window_s)
    order_ms = np.where(rng.random(n) < 0.4, ts_ms + np.round(1000 * delay_s).astype(np.int64), NEVER_MS)
    s = rehearse_sgd(
        method, np.ones((n, 1)), ts_ms, order_ms, ts_ms, window_ms=round(1000 * window_s), elapsed_ms=round(1000 * elapsed_s),
        come_by=1.0 - float(np.exp(-elapsed_s / mean_s)), start=np.zeros(1), squares=np.array([10.0]), rate=0.3,
    )  # fmt: skip
    assert np.mean(1 / (1 + np.exp(-s[n // 2 :]))) == pytest.approx(0.4, abs=0.02)


def test_adpredictor_finds_what_matters() -> None:
    """With all labels at hand, a feature that decides the order is found among eleven that do not."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 12)).astype(np.float32)
    y = (rng.random(3000) < np.where(x[:, 4] > 0.7, 0.4, 0.05)).astype(np.float64)
    raw = standardise(x, np.zeros(12), np.ones(12))
    p = adpredictor(raw, raw, y, np.arange(3000))
    assert auc(y[2000:], p[2000:]) > 0.72
    assert p[0] == pytest.approx(START_RATE, abs=0.02)


def test_a_launch_without_rows_gets_empty_answers() -> None:
    """Nobody came: arrays of length 0, and no error."""
    rows = a_log()
    assert {name: p.shape for name, p in rehearse(rows.select(rows.line != 0)).items()} == dict.fromkeys(BASELINES, (0,))


def test_what_cannot_be_rehearsed_is_refused() -> None:
    """An unknown name, rows before the launch, training after it, and sources that teach nothing."""
    rows = a_log()
    with pytest.raises(ValueError, match="no baseline 'magic'"):
        rehearse(rows, "magic")
    with pytest.raises(ValueError, match="before it began"):
        rehearse(replace(rows, ts_ms=rows.ts_ms - DAY_MS), "base_rate")
    with pytest.raises(ValueError, match="after the launch"):
        rehearse_baselines(rows, 0, at_ms=AT_MS, trained_until_ms=AT_MS + 1, edges_s=EDGES_S, tick_ms=TICK_MS)
    with pytest.raises(InputError, match="no final exposures"):
        rehearse(rows.select(rows.line == 0), "base_rate")
    with pytest.raises(ValueError, match="no method 'magic'"):
        rehearse_sgd("magic", np.ones((1, 1)), *(np.zeros(1, np.int64),) * 3, window_ms=1, elapsed_ms=1, come_by=0.5, start=np.zeros(1), squares=np.ones(1))


def test_progress_counts_to_the_end() -> None:
    """A call before each baseline and one after the last."""
    heard: list[tuple[int, int]] = []
    rehearse_baselines(
        a_log(1500), 0, at_ms=AT_MS, trained_until_ms=AT_MS, edges_s=EDGES_S, tick_ms=TICK_MS, names=("base_rate", "lr_frozen"),
        progress=lambda _, done, of: heard.append((done, of)),
    )  # fmt: skip
    assert heard == [(0, 2), (1, 2), (2, 2)]
