"""The e-detector: its formula, its promise about false alarms, that it finds shifts and says since when, and that it keeps nothing of bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.e_detector import ARMED_AFTER, BEGINNING_MS, KEPT, TILTS, WEIGHTS, Alarm, EDetector, evidence_share, threshold

DAY_MS = 86_400_000
F = np.array([0.0, 0.5, 0.8, 1.0])
Outcomes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def outcomes(
    days: float, *, shift: float = 0.0, since_day: float = 0.0, per_day: int = 500, seed: int = 0, delay_days: float = 0.0
) -> Outcomes:  # fmt: skip
    """p, F_prev, F_next, y, close_ms and exposed_ms of closed bins; the true logits of exposures from `since_day` on are `shift` above the forecast.

    Later bins close `delay_days` after the exposure, or twice that.
    """
    rng = np.random.default_rng(seed)
    n = round(days * per_day)
    s = rng.normal(-2.5, 0.8, n)
    close_ms = np.sort(rng.integers(0, round(days * DAY_MS), n))
    k = rng.integers(0, 3, n)
    exposed_ms = close_ms - (k * delay_days * DAY_MS).astype(np.int64)
    true = 1 / (1 + np.exp(-s - shift * (exposed_ms >= since_day * DAY_MS)))
    hazard = true * (F[k + 1] - F[k]) / (1 - true * F[k])
    return 1 / (1 + np.exp(-s)), F[k], F[k + 1], (rng.random(n) < hazard).astype(np.float64), close_ms, exposed_ms


def clusters(days: float, size: int, seed: int) -> Outcomes:
    """The same, calibrated, but each draw counts for `size` rows in a row: a design effect of `size`."""
    p, f_prev, f_next, y, close_ms, exposed_ms = (np.repeat(a, size) for a in outcomes(days, seed=seed, per_day=500 // size))
    return p, f_prev, f_next, y, close_ms, exposed_ms


def reference(rows: Outcomes, *, share: float) -> list[float]:
    """The statistic after each outcome, from the definition, no recursion: the sum over every beginning b of Π (q(y) / h(y)) ** share.

    The product is over the outcomes since b was possible: those of exposures since b, and all of them once b is one of the old beginnings.
    """
    p, f_prev, f_next, y, close_ms, exposed_ms = rows
    h = p * (f_next - f_prev) / (1 - p * f_prev)
    closed, exposed = close_ms // BEGINNING_MS, exposed_ms // BEGINNING_MS
    found = np.zeros(len(p))
    for tilt, weight in zip(TILTS, WEIGHTS, strict=True):
        q = 1 / (1 + np.exp(-np.log(h / (1 - h)) - tilt))
        ratio = np.where(y > 0, q / h, (1 - q) / (1 - h)) ** share
        for b in range(closed[0], closed[-1] + 1):
            counts = (closed >= b) & ((exposed >= b) | (closed - b >= KEPT - 1))
            found += np.where(closed >= b, np.cumprod(np.where(counts, ratio, 1.0)), 0.0) * weight
    return found.tolist()


def test_equals_the_definition() -> None:
    """The recursion in the kernel is the sum over all beginnings, old ones too, in plain float64, with all and with a share of the evidence."""
    rows = outcomes(6.5, shift=0.5, per_day=60, delay_days=1.2)
    assert (rows[4][-1] - rows[4][0]) // BEGINNING_MS > KEPT + 5
    assert WEIGHTS.sum() == pytest.approx(1.0)  # or the promise about false alarms is another
    for share in (1.0, 0.43):
        detector, said = EDetector.unlearned(), []
        for i in range(len(rows[0])):
            detector.learn_many(*(a[i : i + 1] for a in rows), share=share)
            said.append(detector.statistic)
        assert detector.alarm is None
        np.testing.assert_allclose(said, reference(rows, share=share), rtol=1e-10)


def test_a_long_silence_is_few_beginnings() -> None:
    """After years without an outcome the evidence is that of the beginnings that are kept, no more."""
    rows, detector = outcomes(1), EDetector.unlearned()
    far = rows[4][:2] + np.array([0, 1000 * DAY_MS])
    detector.learn_many(rows[0][:2], rows[1][:2], rows[2][:2], rows[3][:2], far, far)
    assert KEPT - 1 < detector.statistic < 2 * KEPT


def test_an_alarm_is_never_before_its_beginning() -> None:
    """Outcomes that close late, of a partition that catches up, raise an alarm at the latest close that was heard."""
    n = 2 * ARMED_AFTER
    at_ms = np.concatenate([np.arange(n - 1) * DAY_MS // 100, [-DAY_MS]]) + 10 * DAY_MS
    told = EDetector.unlearned().learn_many(np.full(n, 0.01), np.zeros(n), np.ones(n), np.ones(n), at_ms, np.full(n, at_ms.max()))
    assert [alarm.at_ms for alarm in told] == [at_ms[ARMED_AFTER - 1], at_ms[-2]]
    assert all(alarm.since_ms <= alarm.at_ms for alarm in told)


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_exposures_of_before_do_not_dilute_a_shift(shift: float) -> None:
    """Bins of exposures from before the shift go on closing for days, as forecast; it is found sooner than if they counted against it."""
    waits = []
    for seed in range(20):
        rows = outcomes(20, shift=shift, since_day=10, per_day=1500, seed=seed, delay_days=1.5)
        told = [
            next(alarm.at_ms for alarm in EDetector.unlearned().learn_many(*rows[:5], exposed) if alarm.at_ms >= 10 * DAY_MS) for exposed in (rows[5], rows[4])
        ]
        waits.append(told)
    by_exposure, by_outcome = np.median(np.array(waits), axis=0) / DAY_MS - 10
    assert by_exposure < by_outcome - 0.2


def test_many_is_repeated_one_to_the_bit() -> None:
    """However the rows are cut, the same alarms are raised and the same bits stay."""
    rows = outcomes(12, shift=0.9, since_day=3)
    found = []
    for size in (1, 7, 1000, len(rows[0])):
        detector = EDetector.unlearned()
        alarms: list[Alarm] = []
        for i in range(0, len(rows[0]), size):
            alarms += detector.learn_many(*(a[i : i + size] for a in rows), share=0.7)
        found.append((tuple(alarms), [a.tobytes() for a in detector.to_arrays().values()]))
    assert found[0][0]
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_finds_a_shift_and_says_since_when(shift: float) -> None:
    """Half a logit is found within a day or so at some sixty conversions a day, at worst in three, in the right direction and with its beginning told."""
    first: list[Alarm] = []
    for seed in range(10):
        alarms = EDetector.unlearned().learn_many(*outcomes(16, shift=shift, since_day=10, per_day=2000, seed=seed))
        first.append(next(alarm for alarm in alarms if alarm.at_ms >= 10 * DAY_MS))
    delays = np.array([alarm.at_ms for alarm in first]) / DAY_MS - 10
    assert np.median(delays) <= 1.0
    assert delays.max() <= 3.0
    assert all(alarm.direction * shift > 0 for alarm in first)
    assert np.median([abs(alarm.since_ms / DAY_MS - 10) for alarm in first]) <= 0.25


def test_false_alarms_are_no_more_often_than_designed() -> None:
    """Of 120 calibrated streams of 20 days each, designed for a false alarm in 20 days: fewer than 120 alarms, and some, else it is deaf."""
    alarms = sum(len(EDetector.unlearned().learn_many(*outcomes(20, seed=seed), days_between_false_alarms=20.0)) for seed in range(120))
    assert 5 <= alarms < 120


def test_a_share_of_the_evidence_keeps_dependent_rows_from_alarming() -> None:
    """Rows that come in fours break the promise when read as independent, and keep it with a quarter of the evidence."""
    naive, told = (
        sum(len(EDetector.unlearned().learn_many(*clusters(20, 4, seed), share=share, days_between_false_alarms=20.0)) for seed in range(60))
        for share in (1.0, 0.25)
    )
    assert naive > 60
    assert told < 60


def test_the_share_follows_from_the_design_effect() -> None:
    """Independent rows give all of the evidence, a design effect of 4 somewhat more than half; none is above 1, whatever the estimate."""
    assert [evidence_share(deff) for deff in (0.7, 1.0, 4.0)] == [1.0, 1.0, pytest.approx(0.521, abs=5e-4)]


def test_is_armed_by_fifty_conversions() -> None:
    """However wrong the forecast, no alarm before the fiftieth conversion, one with it, and then again only after fifty more."""
    n = 2 * ARMED_AFTER
    at_ms = np.arange(n) * DAY_MS // 100
    rows = np.full(n, 0.01), np.zeros(n), np.ones(n), np.ones(n), at_ms, at_ms
    assert [alarm.at_ms for alarm in EDetector.unlearned().learn_many(*rows)] == [rows[4][ARMED_AFTER - 1], rows[4][-1]]


def test_the_threshold_is_the_beginnings_between_false_alarms() -> None:
    """A hundred days have four hundred beginnings, whatever the traffic."""
    assert threshold() == 400.0
    assert threshold(20.0) == 80.0


def test_refuses_bad_outcomes_unchanged() -> None:
    """p that is NaN or above 1, an empty bin, another y, a short column, or a share above 1: ValueError, and nothing has been heard."""
    good = outcomes(1)
    detector = EDetector.unlearned()
    detector.learn_many(*good)
    before = [a.tobytes() for a in detector.to_arrays().values()]
    bad = [(0, np.nan), (0, 1.5), (1, 1.0), (3, 0.5)]
    for column, value in bad:
        rows = [a.copy() for a in good]
        rows[column][-1] = value
        with pytest.raises(ValueError, match="refused"):
            detector.learn_many(*rows)
    with pytest.raises(ValueError, match="expected"):
        detector.learn_many(*good[:4], good[4][:-1], good[5])
    with pytest.raises(ValueError, match="expected"):
        detector.learn_many(*good[:5], good[5][:-1])
    with pytest.raises(ValueError, match="share"):
        detector.learn_many(*good, share=1.5)
    assert [a.tobytes() for a in detector.to_arrays().values()] == before


def test_survives_storage_and_copies_go_their_own_way() -> None:
    """What is restored holds the same bits and the last alarm; a copy that learns leaves the original alone."""
    detector = EDetector.unlearned()
    assert EDetector.from_arrays(detector.to_arrays()).alarm is None
    detector.learn_many(*outcomes(12, shift=1.0, since_day=3))
    assert isinstance(detector.alarm, Alarm)
    restored, other = EDetector.from_arrays(detector.to_arrays()), detector.copy()
    assert restored.alarm == detector.alarm
    before = [a.tobytes() for a in detector.to_arrays().values()]
    assert [a.tobytes() for a in restored.to_arrays().values()] == before
    other.learn_many(*outcomes(2))
    assert [a.tobytes() for a in detector.to_arrays().values()] == before


def test_a_state_of_before_begins_anew() -> None:
    """What an older program stored, with one sum for each tilt, is not misread: its conversions and last alarm are kept, its sums begin anew."""
    old = {
        "sr": np.full(4, 7.0), "rise": np.zeros(4), "since_ms": np.zeros(4, np.int64), "seen": np.array([61.0, 1e4, 1e8]), "last_ms": np.array([DAY_MS]),
        "alarm_ms": np.array([DAY_MS, DAY_MS // 2]), "alarm": np.array([0.3, 1e6]),
    }  # fmt: skip
    detector = EDetector.from_arrays(old)
    assert (detector.statistic, detector.armed, detector.alarm) == (0.0, True, Alarm(DAY_MS, DAY_MS // 2, 0.3, 1e6))
    assert detector.learn_many(*outcomes(1)) == ()


def test_stays_finite_whatever_comes() -> None:
    """A year of forecasts of 1 that never come true, then of 0 that always do, overflows nothing."""
    n = 20_000
    detector = EDetector.unlearned()
    at_ms = np.arange(n) * 1000
    detector.learn_many(np.ones(n), np.zeros(n), np.ones(n), np.zeros(n), at_ms, at_ms)
    assert math.isfinite(detector.statistic)
    assert detector.alarm is None
    detector.learn_many(np.zeros(n), np.zeros(n), np.ones(n), np.ones(n), at_ms, at_ms)
    assert math.isfinite(detector.statistic)
    assert detector.alarm is not None
