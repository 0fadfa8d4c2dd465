"""Rolling figures: exact however outcomes are batched, bounded in size, and exactly what was stored when read back."""

from __future__ import annotations

import numpy as np

from models.chronicle import (
    BLOCK_MS,
    BLOCKS_KEPT,
    COUNTS,
    FIRST_EXPOSURES,
    HOUR_MS,
    KEPT,
    MINUTE_MS,
    OLDER,
    PLACE,
    Block,
    Blocks,
    Facts,
    Rows,
    counts_of,
    last_day,
)
from models.covariates import Reference
from models.experts import EXPERTS

START_MS = 1_704_067_200_000


def facts(n: int, *, seed: int = 0, span_ms: int = 3 * HOUR_MS, start_ms: int = START_MS) -> Facts:
    """Outcomes in order of time: first bins, later bins and final labels, as they come mixed."""
    rng = np.random.default_rng(seed)
    bin_ = rng.integers(-1, 3, n)
    label = np.where(bin_ < 0, rng.integers(0, 2, n), -1)
    f_prev = np.where(bin_ > 0, 0.3 * bin_, 0.0)
    close_ms = np.sort(start_ms + rng.integers(0, span_ms, n))
    return Facts(
        close_ms=close_ms, exposed_ms=close_ms - 600_000, bin_=bin_, y=((bin_ >= 0) & (rng.random(n) < 0.1)).astype(np.int64), label=label,
        score=rng.random(n), said=np.clip(rng.random((n, 1 + len(EXPERTS))), 0.01, 0.99), delay_ms=rng.integers(-1, 2, (n, 3)), f_prev=f_prev,
        f_next=f_prev + 0.3, parts=rng.integers(-1000, 1000, (n, 4)), x=rng.normal(size=(n, 5)).astype(np.float32), z=rng.normal(size=(n, 3)),
    )  # fmt: skip


def kept(told: Facts, *sizes: int) -> tuple[Rows, Blocks]:
    """What is left of outcomes that came in batches of these sizes."""
    rows, blocks = Rows(), Blocks()
    reference = Reference.of(np.random.default_rng(9).normal(size=(200, 5)).astype(np.float32))
    start = 0
    for size in sizes:
        part = told.rows((np.arange(len(told.bin_)) >= start) & (np.arange(len(told.bin_)) < start + size))
        start += size
        for at_ms, counts in counts_of(part).items():
            rows.add(at_ms, counts)
        blocks.see(part, reference, "0123456789abcdef")
    return rows, blocks


def test_batches_do_not_matter() -> None:
    """One batch and batches of odd sizes leave the same rows to the byte, and blocks with the same counts."""
    told = facts(400)
    (rows, blocks), (other_rows, other_blocks) = kept(told, 400), kept(told, 1, 7, 150, 242)
    assert rows.held == other_rows.held
    one, other = blocks.between(), other_blocks.between()
    for name in ("scored", "scored_p", "matured", "ordered", "told", "spread", "losses"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.allclose(one.moments.zz, other.moments.zz)


def test_counts_are_what_they_say() -> None:
    """Each count of a minute is what a loop over its outcomes finds."""
    told = facts(300, seed=1)
    found = counts_of(told)
    sums = np.sum(list(found.values()), axis=0)
    first, final = told.bin_ == 0, told.label >= 0
    assert sums[PLACE["heard"]] == first.sum()
    assert sums[PLACE["hits"]] == told.y[told.bin_ >= 0].sum()
    assert sums[PLACE["ordered"]] == (told.label == 1).sum()
    assert sums[PLACE["carted"]] == (final & (told.delay_ms[:, 1] >= 0)).sum()
    assert sums[PLACE["s0"]] == told.parts[first, 0].sum()
    assert abs(sums[PLACE["expected"]] / 1e6 - told.hazard[told.bin_ >= 0].sum()) < 1e-3
    assert all(at % MINUTE_MS == 0 for at in found)


def test_rows_are_bounded_and_what_leaves_is_told() -> None:
    """Only so many minutes and hours are kept; the names of the others come out to be dropped, and nothing is both."""
    rows = Rows()
    for i in range(400):
        rows.add(START_MS + i * MINUTE_MS, [1] * len(COUNTS))
    assert len(rows.series("m")) == KEPT["m"]
    assert sum(row.counts[0] for _, row in rows.series("h")) == 400
    assert rows.gone
    assert not rows.gone & set(rows.held)
    assert not rows.gone & rows.touched


def test_old_blocks_are_merged_and_lose_no_label() -> None:
    """More blocks than are kept become one older block; sums over everything stay, recent spans are still apart."""
    blocks, reference = Blocks(), Reference.of(np.zeros((10, 5), np.float32))
    matured = 0
    for i in range(BLOCKS_KEPT + 5):
        part = facts(20, seed=i, span_ms=MINUTE_MS, start_ms=START_MS + i * BLOCK_MS)
        matured += int((part.label >= 0).sum())
        blocks.see(part, reference, "t" * 16)
    assert OLDER in blocks.held
    assert sum(name[0] == "b" for name in blocks.held) == BLOCKS_KEPT
    assert blocks.between().matured.sum() == matured
    assert blocks.between(START_MS + (BLOCKS_KEPT + 4) * BLOCK_MS).matured.sum() == (facts(20, seed=BLOCKS_KEPT + 4).label >= 0).sum()


def days(blocks: Blocks, first: int, last: int, *, trunk: str, each: int = 500) -> None:
    """Blocks number `first` to `last`, of so many outcomes each."""
    reference = Reference.of(np.zeros((10, 5), np.float32))
    for i in range(first, last):
        blocks.see(facts(each, seed=i, span_ms=MINUTE_MS, start_ms=START_MS + i * BLOCK_MS), reference, trunk)


def test_the_first_days_stay_the_first() -> None:
    """What later days are compared with is the same when it is long merged, after a restart as well; not before there is a day of it."""
    blocks = Blocks()
    days(blocks, 0, 3, trunk="a" * 16)
    assert blocks.first()[1] == 0
    days(blocks, 3, 6, trunk="a" * 16)
    then, until_ms = blocks.first()
    assert until_ms == START_MS + 4 * BLOCK_MS
    for last in (BLOCKS_KEPT + 2, 2 * BLOCKS_KEPT, 3 * BLOCKS_KEPT):
        days(blocks, max(6, last - BLOCKS_KEPT + 2), last, trunk="a" * 16)
        blocks = Blocks(dict(blocks.held))
        found, end_ms = blocks.first()
        assert end_ms == until_ms
        assert found.to_bytes() == then.to_bytes()


def test_a_few_exposures_each_day_are_first_days_too() -> None:
    """A quiet domain's beginning is as long as it takes, also where that is longer than blocks are kept."""
    blocks = Blocks()
    days(blocks, 0, 40, trunk="a" * 16, each=10)
    assert blocks.first()[1] == 0
    days(blocks, 40, 400, trunk="a" * 16, each=10)
    then, until_ms = blocks.first()
    assert FIRST_EXPOSURES <= then.moments.n < FIRST_EXPOSURES + 10
    assert START_MS + BLOCKS_KEPT * BLOCK_MS < until_ms < START_MS + 200 * BLOCK_MS


def test_another_trunk_has_first_days_of_its_own() -> None:
    """After a change of the trunk later days are compared with the first ones under it, and of who came before the latest trunk's is kept."""
    blocks = Blocks()
    days(blocks, 0, 10, trunk="a" * 16)
    days(blocks, 10, 12, trunk="b" * 16)
    assert blocks.first()[1] == 0
    days(blocks, 12, 20, trunk="b" * 16)
    then, until_ms = blocks.first()
    assert (then.trunk, until_ms) == ("b" * 16, START_MS + 14 * BLOCK_MS)
    assert blocks.between().trunk == "b" * 16
    assert blocks.between().moments.n == blocks.between(START_MS + 10 * BLOCK_MS).moments.n
    days(blocks, 20, 2 * BLOCKS_KEPT, trunk="b" * 16)
    assert blocks.first()[0].to_bytes() == then.to_bytes()
    assert Block.from_bytes(blocks.held[OLDER]).trunk == "b" * 16
    assert sum(name.startswith("first") for name in blocks.held) == 1


def test_a_block_comes_back_as_it_was() -> None:
    """Stored and read back, a block is the same to the bit; of another trunk the shoppers begin anew, labels stay."""
    _, blocks = kept(facts(200), 200)
    (raw,) = blocks.held.values()
    block = Block.from_bytes(raw)
    assert block.to_bytes() == raw
    assert block.trunk == "0123456789abcdef"
    before = block.matured.sum()
    block.see(facts(50, seed=2), Reference.of(np.zeros((10, 5), np.float32)), "f" * 16)
    assert block.moments.n == int((facts(50, seed=2).bin_ == 0).sum())
    assert block.matured.sum() > before


def test_the_last_day_holds_every_hour() -> None:
    """Wherever in a block it is looked at, the day before is in it, and no more than a block besides."""
    for hour in range(24):
        at_ms = START_MS + hour * HOUR_MS
        assert 24 * HOUR_MS <= at_ms - last_day(at_ms) < 30 * HOUR_MS
        assert last_day(at_ms) % BLOCK_MS == 0
