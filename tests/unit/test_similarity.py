"""Source choice by measured similarity: the measures' known values, and the rule on lines whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import InputError
from models.distances import delay_distance, log_odds_difference, median_scale, mmd2, proxy_a_distance, psi
from models.rows import Rows
from models.similarity import Similarity, similarity
from models.source_weights import LEFT_OUT, POOLED, WEIGHTED, Limits, SourceSimilarity, weigh
from models.transferability import Estimate, agreement, h_score, logme, slope

DAY_MS = 86_400_000
SAME = ("same",) * 4


def make_lines(kinds: Sequence[str], *, rows: int = 900, target_rows: int = 900, seed: int = 0, features: int = 8) -> Rows:
    """A line "target", then one line of each kind: same, nudged or far shoppers; flipped, half or unrelated preferences."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(400, features))
    theta = np.array([1.0, -0.8, 0.7, 0.5, 0.0, 0.0, 0.0, 0.0])[:features]
    parts = []
    for k, kind in enumerate(("target", *kinds)):
        n = rows if k else target_rows
        user = rng.integers(0, len(taste), n)
        x = 0.8 * rng.normal(size=(n, features)) + 0.6 * taste[user]
        preferences = {"noise": 0 * theta, "flipped": -theta, "half": 0.3 * theta + 0.8 * theta[::-1], "unrelated": theta[::-1]}.get(kind, theta)
        # The level of a line does not matter here: a far line orders as often as the others.
        logit = x @ preferences - 2.0 + 0.3 * rng.normal()
        x = x + {"far": 2.5, "nudged": 0.35}.get(kind, 0.0)
        happened = rng.random((n, 3)) < 1 / (1 + np.exp(-(logit[:, None] + np.array([1.5, 0.7, 0.0]))))
        delay = np.minimum(rng.exponential(15_000, (n, 3)), 86_399)
        parts.append((x, np.full(n, k), user, rng.integers(0, 8 * DAY_MS, n), np.where(happened, delay, np.inf)))
    x, line, user, ts_ms, delay_s = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(
        x.astype(np.float32), line.astype(np.int32), ("target", *(f"{kind}-{k}" for k, kind in enumerate(kinds))), user.astype(np.int64),
        ts_ms.astype(np.int64), delay_s, 86_400.0, tuple(f"feature_{k}" for k in range(features)),
    )  # fmt: skip


def verdicts(found: Similarity) -> dict[str, str]:
    """Line → verdict."""
    return {s.line: s.verdict for s in found.sources}


def by_line(found: Similarity) -> dict[str, SourceSimilarity]:
    """Line → what was measured."""
    return {s.line: s for s in found.sources}


def normal(n: int, features: int = 5, *, shift: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """Independent normal features around `shift`."""
    return np.random.default_rng(seed).normal(size=(n, features)) + shift


def everyone(n: int) -> NDArray[np.int64]:
    """A user for each row."""
    return np.arange(n, dtype=np.int64)


def test_psi_of_the_same_rows_is_zero_and_of_two_bins_the_formula() -> None:
    """Identical rows: 0. Shares .75 and .25 against .25 and .75: (½ ln 3) twice, but for the half row added to each bin."""
    a = normal(300)
    assert psi(a, a[::-1], a) == pytest.approx(0.0, abs=1e-12)
    p = np.r_[np.zeros(750), np.ones(250)][:, None]
    expected = 2 * (750.5 - 250.5) / 1001 * math.log(750.5 / 250.5)
    assert psi(p, 1 - p, np.array([[0.0], [1.0]]), bins=2) == pytest.approx(expected, abs=1e-12)


def test_psi_grows_with_the_shift_and_takes_many_zeros_as_one_bin() -> None:
    """A larger shift is a larger PSI; a feature that is 0 for all says nothing, and halves the mean of two."""
    a = normal(2000, 1)
    values = [psi(a, normal(2000, 1, shift=shift, seed=1), a) for shift in (0.0, 0.3, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[0] < 0.02 < values[1]
    both = [np.c_[x, np.zeros(len(x))] for x in (a, a + 1.0, a)]
    assert psi(*both) == pytest.approx(psi(a, a + 1.0, a) / 2)


def test_mmd_is_unbiased_and_equals_the_double_sum() -> None:
    """By the plain formula on a few rows; on average 0 for one population, of either sign; growing with the shift."""
    a, b = normal(6), normal(4, seed=1)

    def k(u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
        return math.exp(-float(((u - v) ** 2).sum()) / 3.0)

    plain = (
        sum(k(a[i], a[j]) for i in range(6) for j in range(6) if i != j) / 30
        + sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
        - 2 * sum(k(u, v) for u in a for v in b) / 24
    )
    assert mmd2(a, b, scale=3.0) == pytest.approx(plain, abs=1e-12)
    nulls = [mmd2(normal(150, seed=2 * s), normal(150, seed=2 * s + 1), scale=10.0) for s in range(30)]
    assert abs(np.mean(nulls)) < 3 * np.std(nulls) / math.sqrt(30)
    assert min(nulls) < 0 < max(nulls)
    shifted = [mmd2(normal(150), normal(150, shift=shift, seed=1), scale=10.0) for shift in (0.0, 0.5, 1.5, 5.0)]
    assert shifted == sorted(shifted)
    assert abs(shifted[0]) < 0.01 and shifted[-1] > 0.8


def test_median_scale_is_the_median_squared_distance() -> None:
    """Of three rows, and 1 where there is no distance."""
    assert median_scale(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(4.0)
    assert median_scale(np.zeros((5, 2))) == 1.0


def test_a_distance_is_near_zero_for_one_population_and_near_two_for_two() -> None:
    """Within its own noise of 0 for one population; near 2, with an error above 0, for two that do not meet."""
    for seed in range(5):
        same = proxy_a_distance(normal(400, seed=seed), normal(300, seed=100 + seed), everyone(400), everyone(300) + 400)
        assert abs(same.value) < 3 * same.se
    far = proxy_a_distance(normal(400), normal(300, shift=6.0, seed=1), everyone(400), everyone(300) + 400)
    assert 1.95 < far.value < 2.0
    assert far.se > 0
    between = proxy_a_distance(normal(400), normal(300, shift=0.5, seed=1), everyone(400), everyone(300) + 400)
    assert 0.3 < between.value < 1.5


def test_a_distance_does_not_learn_users_by_heart() -> None:
    """Users with features of their own, many rows each, and sides dealt to users at random: no distance, since held-out users are others."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(40), 25)
    x = rng.normal(size=(40, 12))[user] + 0.01 * rng.normal(size=(1000, 12))
    side = rng.random(40)[user] < 0.5
    found = proxy_a_distance(x[side], x[~side], user[side], user[~side])
    assert abs(found.value) < 3 * found.se
    assert found.se > 0.15


def test_log_odds_difference_and_its_error() -> None:
    """By the plain formula for users with one row; larger where users repeat themselves."""
    a, b = np.r_[np.ones(30), np.zeros(70)], np.r_[np.ones(10), np.zeros(90)]
    found = log_odds_difference(a, b, everyone(100), everyone(100))
    assert found.value == pytest.approx(math.log(30.5 / 70.5) - math.log(10.5 / 90.5))
    assert found.se == pytest.approx(math.sqrt(1 / 30 + 1 / 70 + 1 / 10 + 1 / 90), rel=0.05)
    repeated = log_odds_difference(a, b, everyone(100) // 10, everyone(100) // 10)
    assert repeated.se > 2 * found.se


def test_delay_distance_is_the_greatest_gap() -> None:
    """All within the first bin against half of them: one half; those without an order do not count."""
    edges = np.array([0.0, 10.0, 100.0])
    assert delay_distance(np.array([1.0, 2.0, np.inf]), np.array([5.0, 50.0]), edges) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="an order on both sides"):
        delay_distance(np.array([np.inf]), np.array([5.0]), edges)


def direct_evidence(f: NDArray[np.float64], y: NDArray[np.float64], alpha: float, beta: float) -> float:
    """Log of N(y; 0, I / β + F Fᵀ / α), a row."""
    covariance = np.eye(len(y)) / beta + f @ f.T / alpha
    return float(-0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]) / len(y))


def test_logme_is_the_greatest_direct_evidence() -> None:
    """The marginal likelihood of the one-hot labels, maximised over a fine grid of both precisions."""
    rng = np.random.default_rng(1)
    f = np.c_[rng.normal(size=12), np.ones(12)]
    y = (f[:, 0] + 0.5 * rng.normal(size=12) > 0.3).astype(np.float64)
    grid = np.exp(np.linspace(-3, 5, 81))
    best = [max(direct_evidence(f, labels, a, b) for a in grid for b in grid) for labels in (y, 1 - y)]
    assert logme(f, y) == pytest.approx(np.mean(best), abs=5e-4)


def test_logme_and_h_score_reward_what_explains_the_labels() -> None:
    """A feature that explains the labels beats noise; both are blind to sign; for one feature H is the squared correlation."""
    rng = np.random.default_rng(2)
    y = (rng.random(500) < 0.3).astype(np.float64)
    good, noise, one = (y + rng.normal(size=500))[:, None], rng.normal(size=(500, 1)), np.ones((500, 1))
    assert logme(np.c_[good, one], y) > logme(np.c_[noise, one], y) + 0.05
    assert logme(np.c_[-good, one], y) == pytest.approx(logme(np.c_[good, one], y))
    assert h_score(good, y) == pytest.approx(np.corrcoef(good[:, 0], y)[0, 1] ** 2)
    assert h_score(-good, y) == pytest.approx(h_score(good, y))
    assert h_score(np.zeros((500, 1)), y) == 0.0
    with pytest.raises(ValueError, match="expected"):
        logme(good, y[:-1])
    with pytest.raises(ValueError, match="not finite"):
        h_score(good * np.nan, y)


def test_slope_finds_the_factor_on_the_logit() -> None:
    """Labels drawn from half the logit: ½ within its error; opposite labels: the opposite slope."""
    rng = np.random.default_rng(4)
    logit = rng.normal(size=4000) - 1.0
    y = (rng.random(4000) < 1 / (1 + np.exp(-0.5 * logit))).astype(np.float64)
    found = slope(logit, y, everyone(4000))
    assert found.value == pytest.approx(0.5, abs=3 * found.se)
    assert slope(logit, 1 - y, everyone(4000)).value == pytest.approx(-found.value, abs=1e-6)
    assert slope(np.tile(logit, 4), np.tile(y, 4), np.tile(everyone(4000), 4)).se == pytest.approx(found.se, rel=0.1)


def test_agreement_is_the_ratio_of_slopes() -> None:
    """Its error by the delta method; no ratio against a slope that may be zero."""
    found = agreement(Estimate(0.5, 0.1), Estimate(2.0, 0.2))
    assert (found.value, found.se) == pytest.approx((0.25, math.hypot(0.1, 0.25 * 0.2) / 2))
    with pytest.raises(ValueError, match="clear"):
        agreement(Estimate(0.5, 0.1), Estimate(0.3, 0.2))


@pytest.mark.parametrize("target_rows", [0, 30, 200, 900])
@pytest.mark.parametrize("seed", range(2))
def test_samples_of_one_population_are_all_pooled(seed: int, target_rows: int) -> None:
    """Whatever the target's size, no line of the same population loses weight: chance is no difference."""
    rows = make_lines(("same",) * 6, target_rows=target_rows, seed=seed)
    found = similarity(rows, "target")
    assert {(s.verdict, s.weight) for s in found.sources} == {(POOLED, 1.0)}
    assert found.note == ""


@pytest.mark.parametrize("seed", range(3))
def test_the_unrelated_are_left_out_and_the_shifted_weighted(seed: int) -> None:
    """Far shoppers and flipped preferences: out, for the right reason. Nudged shoppers or half the preferences: some weight. The rest: all of it."""
    rows = make_lines((*SAME, "far", "flipped", "nudged", "half"), seed=seed)
    found = similarity(rows, "target")
    assert verdicts(found) == {
        **{f"same-{k}": POOLED for k in range(4)}, "far-4": LEFT_OUT, "flipped-5": LEFT_OUT, "nudged-6": WEIGHTED, "half-7": WEIGHTED,
    }  # fmt: skip
    lines = by_line(found)
    assert "A-distance" in lines["far-4"].reason or "PSI" in lines["far-4"].reason or "MMD" in lines["far-4"].reason
    assert "agreement" in lines["flipped-5"].reason and "agreement" in lines["half-7"].reason
    assert (lines["flipped-5"].agreement or 0.0) < -0.5 < 0.1 < (lines["half-7"].agreement or 0.0) < 0.7
    assert [lines[name].weight for name in ("far-4", "same-0")] == [0.0, 1.0]
    assert all(0.0 <= s.weight <= 1.0 for s in found.sources)


@pytest.mark.parametrize("seed", range(2))
def test_a_flipped_line_is_found_before_the_target_has_labels(seed: int) -> None:
    """It contradicts all the others, so it is left out when the target has no rows yet, or when its labels are not to be used."""
    for target_rows, labelled in ((0, True), (300, False)):
        found = similarity(make_lines((*SAME, "flipped"), target_rows=target_rows, seed=seed), "target", labelled=labelled)
        assert verdicts(found) == {**{f"same-{k}": POOLED for k in range(4)}, "flipped-4": LEFT_OUT}
        assert all(s.logme is None and s.log_odds is None and s.delay is None for s in found.sources)


def test_a_line_whose_own_head_tells_nothing_is_judged_by_what_the_others_have_taught() -> None:
    """Orders at random: no slope at home to compare with, but what holds for the other lines clearly does not hold there."""
    found = by_line(similarity(make_lines((*SAME, "noise")), "target"))["noise-4"]
    assert found.agreement is not None and found.agreement < 0.3
    assert found.verdict == WEIGHTED and "agreement" in found.reason


def test_sources_that_explain_nothing_are_said_to() -> None:
    """The target orders at random: no source is ruled out for it, and the note says that they do not help so far."""
    rows = make_lines(SAME)
    own = np.flatnonzero(rows.line == 0)
    delay = rows.delay_s.copy()
    delay[own] = delay[np.random.default_rng(5).permutation(own)]
    assert "no better than no features" in similarity(replace(rows, delay_s=delay), "target").note


def test_never_are_all_left_out() -> None:
    """All sources flipped: all are pooled, and the note says so."""
    found = similarity(make_lines(("flipped", "flipped")), "target")
    assert [(s.verdict, s.weight) for s in found.sources] == [(POOLED, 1.0)] * 2
    assert found.note.startswith("every source looks unrelated")
    assert all("agreement" in s.reason for s in found.sources)


def test_a_launch_that_differs_from_all_alike_rules_nobody_out() -> None:
    """All sources far: the nearest is the measure, so all are pooled, and the note says that they are far."""
    found = similarity(make_lines(("far",) * 4), "target")
    assert set(verdicts(found).values()) == {POOLED}
    assert all((s.a_distance or 0.0) > 1.9 for s in found.sources)
    assert "easily told" in found.note


def test_features_about_the_line_do_not_tell_shoppers_apart() -> None:
    """A feature that names the line makes the A-distance 2, and nothing of it once it is said to be about the line."""
    rows = make_lines(SAME)
    x = rows.x.copy()
    x[:, 7] = rows.line
    rows = replace(rows, x=x)
    naive, told = similarity(rows, "target"), similarity(rows, "target", about_line=["feature_7"])
    assert min(s.a_distance or 0.0 for s in naive.sources) > 1.5
    assert max(s.a_distance or 0.0 for s in told.sources) < 0.3
    assert set(verdicts(told).values()) == {POOLED}


def test_the_order_of_rows_and_lines_does_not_matter() -> None:
    """Shuffled rows and renumbered lines give the same figures to the bit."""
    rows = make_lines((*SAME, "nudged"), rows=500, target_rows=300)
    shuffled = np.random.default_rng(9).permutation(len(rows))
    renumbered = np.array([3, 0, 5, 1, 4, 2], dtype=np.int32)
    names = [""] * 6
    for old, new in enumerate(renumbered):
        names[new] = rows.lines[old]
    other = replace(rows, line=renumbered[rows.line], lines=tuple(names)).select(shuffled)
    assert asdict(similarity(other, "target")) == asdict(similarity(rows, "target"))


def test_what_cannot_be_computed_says_why() -> None:
    """Three conversions of the target, a line without conversions, a line without rows: None, a reason, and no weight lost but by the empty line."""
    rows = make_lines(SAME, rows=400, target_rows=100)
    delay = rows.delay_s.copy()
    delay[rows.line == 4] = np.inf
    own = np.flatnonzero(np.isfinite(delay[:, 2]) & (rows.line == 0))
    delay[own[3:], 2] = np.inf
    rows = replace(rows, delay_s=delay)
    rows = rows.select(rows.line != 3)
    found = similarity(rows, "target")
    lines = by_line(found)
    assert lines["same-0"].logme is None and lines["same-0"].unknown["logme"] == "the target has 3 conversions; 10 are needed"
    assert lines["same-3"].agreement is None and lines["same-3"].unknown["agreement"] == "the line has 0 conversions; 10 are needed"
    empty = lines["same-2"]
    assert (empty.rows, empty.verdict, empty.weight, empty.pi, empty.reason) == (0, LEFT_OUT, 0.0, 0.0, "it has no final exposures")
    assert found.pooled_logme is None and found.level_logme is None
    for s in found.sources:
        for name in ("psi", "mmd2", "a_distance", "inside", "log_odds", "funnel", "delay", "agreement", "logme", "h_score"):
            assert (getattr(s, name) is None) == (name in s.unknown), (s.line, name)


def test_logme_with_labels_beats_the_level_where_preferences_are_shared() -> None:
    """The logits of a like line and of the pool explain the target's orders better than a constant; those of an unrelated line do not."""
    found = similarity(make_lines((*SAME, "unrelated")), "target")
    lines, level = by_line(found), found.level_logme or 0.0
    assert (found.pooled_logme or -9.0) > level + 0.01 and (lines["same-0"].logme or -9.0) > level + 0.01
    assert (lines["unrelated-4"].logme or 0.0) < level + 0.01
    assert (found.pooled_h_score or 0.0) > 0.05 > (lines["unrelated-4"].h_score or 0.0)


def test_pi_sums_to_one_and_follows_weight_and_richness() -> None:
    """Of two lines that are alike in all else the one with more conversions has more; a line left out has none."""
    poor = SourceSimilarity("poor", 1000, 10, 8.0, 0.1)
    rich = replace(poor, line="rich", conversions=500)
    gone = replace(rich, line="gone", agreement=-1.0, agreement_se=0.1)
    found, note = weigh([poor, gone, rich])
    assert [s.line for s in found][-1] == "gone"
    pi = {s.line: s.pi for s in found}
    assert math.fsum(pi.values()) == pytest.approx(1.0, abs=1e-12)
    assert pi["rich"] > 3 * pi["poor"] > 0 == pi["gone"]
    assert note == ""


def test_weight_falls_evenly_between_the_limits_and_noise_is_free() -> None:
    """1 up to `free`, 0 from `gone` on; a difference that noise explains costs nothing, the worst of two findings decides."""
    assert [Limits(1.0, 3.0).factor(e) for e in (0.0, 1.0, 2.0, 3.0, 9.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    line = SourceSimilarity("a", 1000, 100, 8.0, 0.1, log_odds=-3.0, log_odds_se=0.2, noise={"log_odds": 0.5})
    found, _ = weigh([line])
    assert (found[0].weight, found[0].verdict) == (0.5, WEIGHTED)
    assert weigh([replace(line, noise={"log_odds": 2.0})])[0][0].weight == 1.0
    worse = replace(line, agreement=0.1, agreement_se=0.01)
    assert weigh([worse])[0][0].weight == pytest.approx((0.1 + 1.645 * 0.01) / 0.7)
    assert "agreement" in weigh([worse])[0][0].reason


def test_errors_name_what_is_wrong() -> None:
    """An unknown line or feature, no source, and a feature that is not finite are the user's faults."""
    rows = make_lines(("same",), rows=50, target_rows=50)
    with pytest.raises(InputError, match="no line 'lost'; there are same-0, target"):
        similarity(rows, "lost")
    with pytest.raises(InputError, match="no feature 'colour'"):
        similarity(rows, "target", about_line=["colour"])
    with pytest.raises(InputError, match="there is no source"):
        similarity(rows.select(rows.line == 0), "target")
    x = rows.x.copy()
    x[3, 2] = np.nan
    with pytest.raises(InputError, match="'feature_2' is not finite"):
        similarity(replace(rows, x=x), "target")
    with pytest.raises(ValueError, match="two rows"):
        mmd2(normal(1), normal(5), scale=1.0)
