"""From events to the kernel's rows: codes, hashes, local time, and the order within a tick."""

from __future__ import annotations

import random

import numpy as np
import pytest

from features.events import Shopper
from features.hashing import murmur2, partition_for
from features.intake import LocalTime, age_code, hash32, hash64, hashes64, rows
from tests.builders import START_MS, arrive, make_event


@pytest.mark.parametrize(
    ("band", "code"), [(None, 0), ("", 0), ("unknown", 0), ("0-9", 1), ("18-24", 2), ("25-34", 3), ("65+", 7), ("over 70", 8), ("999999", 12), ("٣٠", 4)]
)
def test_age_bands_become_ordinals(band: str | None, code: int) -> None:
    """By decades of the first number; 0 is unknown."""
    assert age_code(band) == code


def test_hashes_are_stable_and_never_zero() -> None:
    """0 marks an empty place; the values are fixed, for they are stored."""
    assert hash64("e1") == 2_269_290_854_245_001_967
    assert hash32("") == 1
    assert hash32("shoes") == 349_143_447
    assert len({hash64(str(i)) for i in range(10_000)}) == 10_000
    assert hashes64(["e1", ""]).tolist() == [hash64("e1"), hash64("")]


@pytest.mark.parametrize(
    ("timezone", "ts", "hours"),
    [
        ("UTC", START_MS, 0),
        ("Asia/Shanghai", START_MS, 8),
        ("America/New_York", START_MS, -5),
        ("Europe/Berlin", 1_711_846_799_999, 1),
        ("Europe/Berlin", 1_711_846_800_000, 2),
    ],
)
def test_local_time_follows_the_zone(timezone: str, ts: int, hours: int) -> None:
    """To the millisecond at a change of the clocks, and whether or not the quarter was asked for before."""
    local = LocalTime(timezone)
    assert local.utc_offset_s(ts) == local.utc_offset_s(ts) == 3600 * hours


@pytest.mark.parametrize("timezone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu"])
def test_local_time_holds_at_both_ends(timezone: str) -> None:
    """The first and the last time that an event may have are times everywhere."""
    local = LocalTime(timezone)
    assert abs(local.utc_offset_s(0)) <= 14 * 3600
    assert abs(local.utc_offset_s(4_294_967_295_999)) <= 14 * 3600


def test_rows_hold_what_the_kernel_reads() -> None:
    """A category that is not given is the line; unknown price is NaN; unknown demographics are 0, level 0 is not."""
    bare = make_event(START_MS)
    shopper = Shopper(age_band="25-34", gender="Male", level=0, region="north", registered_ts="2023-12-01")
    full = make_event(START_MS + 1, id="e2", category="boots", price=9.5, user=shopper)
    out = rows([arrive(bare), arrive(full, "order")], LocalTime("Asia/Shanghai"))
    assert out["ts_ms"].tolist() == [START_MS, START_MS + 1]
    assert out["kind"].tolist() == [0, 3]
    assert out["category"].tolist() == [hash32("shoes"), hash32("boots")]
    assert np.isnan(out["price"][0])
    assert out["price"][1] == np.float32(9.5)
    assert out["utc_offset_s"].tolist() == [28_800, 28_800]
    assert [out[name][0] for name in ("age", "gender", "level", "region", "registered_ms")] == [0] * 5
    assert [out[name][1] for name in ("age", "gender", "level", "registered_ms")] == [3, 2, 1, 1_701_388_800_000]
    assert 1 <= out["region"][1] <= 65_535


def test_a_tick_has_one_order() -> None:
    """By time, event id, topic, user and raw bytes, in this order of precedence, and as bytes; however the events arrive."""
    wanted = [
        arrive(make_event(START_MS, id="Z", who="b"), "order"),
        arrive(make_event(START_MS, id="a", who="b"), "browse"),
        arrive(make_event(START_MS, id="a", who="a"), "click"),
        arrive(make_event(START_MS, id="a", who="b", price=1.0), "click"),
        arrive(make_event(START_MS, id="a", who="b", price=2.0), "click"),
        arrive(make_event(START_MS, id="é", who="a"), "browse"),
        arrive(make_event(START_MS + 1, id="A", who="a"), "browse"),
    ]
    for seed in range(20):
        assert sorted(random.Random(seed).sample(wanted, len(wanted)), key=lambda a: a.order()) == wanted


@pytest.mark.parametrize(
    ("key", "signed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)],
)
def test_murmur2_is_kafkas(key: bytes, signed: int) -> None:
    """The values of Kafka's own test of its partitioner."""
    assert murmur2(key) == signed & 0xFFFFFFFF
    assert 0 <= partition_for(key, 12) < 12
