"""A log that is read part by part: the same events in the same order as in memory, and the same trunk; what cannot be read so is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.exposures import Exposure
from features.predictions import UNSAID
from features.vector import WIDTH
from models.pretrain import PretrainSettings
from models.trunk import TrunkSettings
from streams.importing import read_log
from streams.log_parts import LogParts, last_ms, open_log, parts
from streams.partition import Rules
from streams.row_sample import RowSample
from streams.shop import Shop, simulate
from streams.training import edges_ms, survey, train

WINDOW_S = 21_600.0
TINY = PretrainSettings(trunk=TrunkSettings(most_steps=30, check_steps=15, width=32, middle=16), c_grid=(0.02,), pseudo_steps=15)


@pytest.fixture(scope="module")
def log() -> pa.Table:
    """Two days of a shop, with many events in the same moment."""
    made = simulate(Shop(users=150, lines=3, days=3.0, launch_day=None, visits_per_day=1.4, conversion=0.2, window_s=WINDOW_S, seed=5)).log
    ts = pa.array(made["ts"].to_numpy() // 60_000 * 60_000)
    return made.set_column(made.column_names.index("ts"), "ts", ts)


def on_disk(log: pa.Table, folder: Path, files: int, *, seed: int = 0) -> Path:
    """The log in files that follow each other, in order of ts alone; ordered otherwise within a moment."""
    shuffled = log.take(pa.array(np.random.default_rng(seed).permutation(log.num_rows)))
    order = np.argsort(shuffled["ts"].to_numpy(), kind="stable")
    for i, part in enumerate(np.array_split(order, files)):
        pq.write_table(shuffled.take(pa.array(part)), folder / f"part-{i:03}.parquet", row_group_size=300)
    return folder


@pytest.mark.parametrize(("files", "part_rows"), [(1, 1_000_000), (3, 1009), (7, 401)])
def test_the_parts_are_the_log(log: pa.Table, tmp_path: Path, files: int, part_rows: int) -> None:
    """However it lies on disk, the tables that come are in order and make up what a log in memory is; each pass anew; the survey is the same."""
    pq.write_table(log, tmp_path / "whole.parquet")
    whole = read_log(tmp_path / "whole.parquet", lines="hash:2")
    (tmp_path / "folder").mkdir()
    found = LogParts(on_disk(log, tmp_path / "folder", files), lines="hash:2", part_rows=part_rows)
    for _ in range(2):
        assert pa.concat_tables(parts(found)).combine_chunks().equals(whole.combine_chunks())
    assert (found.num_rows, found.last_ms()) == (whole.num_rows, pc.max(whole["ts"]).as_py())
    middle_ms = int(whole["ts"][whole.num_rows // 2].as_py())
    for until_ms in (None, middle_ms):
        assert survey(found, until_ms) == survey(whole, until_ms)
    assert survey(found).fingerprint != survey(found, middle_ms).fingerprint


def test_training_on_either_gives_the_same_trunk(log: pa.Table, tmp_path: Path) -> None:
    """In memory and part by part: the same weights, heads and priors, to the bit; and each pass over the log says how far it is."""
    told: dict[str, list[int]] = {}
    pq.write_table(log, tmp_path / "whole.parquet")
    (tmp_path / "folder").mkdir()
    made = [
        train(
            source,
            Rules(edges_ms=edges_ms(WINDOW_S)),
            tick_ms=3_600_000,
            until_ms=last_ms(log) + 1,
            seed=1,
            settings=TINY,
            progress=lambda step, done, of: told.setdefault(f"{step} of {of}", []).append(done),
        )
        for source in (read_log(tmp_path / "whole.parquet"), LogParts(on_disk(log, tmp_path / "folder", 4), part_rows=500))
    ]
    of_trunk, of_heads = (
        [{name: array.tobytes() for name, array in one.trunk.as_dict().items()} for one in made],
        [[h.p.tobytes() for h in one.heads.values()] for one in made],
    )
    assert of_trunk[0] == of_trunk[1]
    assert of_heads[0] == of_heads[1]
    assert (made[0].fingerprint, made[0].settings) == (made[1].fingerprint, made[1].settings)
    assert made[0].settings["pseudo_launches"], "no line was launched in pretence: the test shows less than it says"
    assert made[0].offset_pi.tobytes() == made[1].offset_pi.tobytes()
    passes = {step: done for step, done in told.items() if "(events)" in step}
    assert list(passes) == [f"{step} (events) of {log.num_rows}" for step in ("features", *(f"line {line} launched in pretence" for line in made[0].lines))]
    assert max(passes[f"features (events) of {log.num_rows}"]) == log.num_rows
    assert all(len(done) > 20 and 0 < done[0] < log.num_rows / 4 for done in passes.values())


def test_lines_can_be_left_out(log: pa.Table, tmp_path: Path) -> None:
    """`without` takes a line's events away."""
    line = survey(log).lines[0]
    found = LogParts(on_disk(log, tmp_path, 2), without=[line])
    assert survey(found).lines == survey(log).lines[1:]


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_line_that_is_not_there_cannot_be_left_out(log: pa.Table, tmp_path: Path, by_parts: bool) -> None:
    """Else a slip of the pen would leave in what a trunk must not have seen."""
    path = on_disk(log, tmp_path, 1)
    with pytest.raises(InputError, match="there is no line 'lanch' in the log"):
        survey(open_log(path if by_parts else next(path.glob("*.parquet")), by_parts=by_parts, without=[survey(log).lines[0], "lanch"]))


def test_what_is_not_in_order_is_refused(log: pa.Table, tmp_path: Path) -> None:
    """The first row that goes back is named with its file, wherever it is; so is a bad value, a missing column, what is no Parquet, and nothing at all."""
    ordered = log.take(pa.array(np.argsort(log["ts"].to_numpy(), kind="stable")))
    half = ordered.num_rows // 2
    pq.write_table(ordered.slice(half), tmp_path / "a.parquet")
    pq.write_table(ordered.slice(0, half), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet, row 1, column 'ts': earlier than the row before it"):
        list(LogParts(tmp_path))
    (tmp_path / "a.parquet").unlink()
    bad = ordered.slice(0, half).set_column(ordered.column_names.index("price"), "price", pa.array([-1.0] * half))
    pq.write_table(bad, tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet, row 1, column 'price'"):
        list(LogParts(tmp_path / "b.parquet"))
    pq.write_table(ordered.drop_columns(["user_id"]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="no column 'user_id'"):
        LogParts(tmp_path)
    pq.write_table(ordered.slice(0, 0), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="holds no events"):
        LogParts(tmp_path)
    (tmp_path / "b.parquet").write_text("7,101,11,buy,1511600000\n")
    with pytest.raises(InputError, match="as Parquet"):
        LogParts(tmp_path)
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(InputError, match=r"no \.parquet file"):
        LogParts(tmp_path)
    with pytest.raises(InputError, match="looks at the log as a whole"):
        LogParts(tmp_path, lines="behaviour:3")


def exposures(n: int, users: int) -> list[Exposure]:
    """Final exposures of some users."""
    rng = np.random.default_rng(0)
    return [
        Exposure(
            id=f"{i:016x}", domain="line:a", user=f"u{rng.integers(users)}", line="ab"[i % 2], category="c", counts=True, ts_ms=i,
            x=np.full(WIDTH, i, np.float32).tobytes(), predictions=UNSAID, delay_ms=(-1, i, -1 if i % 3 else 7), bin=1,
        )
        for i in range(n)
    ]  # fmt: skip


def test_a_sample_holds_whole_shoppers_and_no_more_than_it_may() -> None:
    """All rows of a shopper are kept or none, in order; half as many shoppers each time there are too many; and which does not depend on the order."""
    several = exposures(3000, users=400)
    whole, sample, turned = (RowSample({"a": 0, "b": 1}, most) for most in (3000, 1000, 1000))
    for exposure in several:
        whole.add(exposure)
        sample.add(exposure)
    for exposure in reversed(several):
        turned.add(exposure)
    everything, rows, other = whole.rows(60_000), sample.rows(60_000), turned.rows(60_000)
    assert (whole.halvings, sample.halvings) == (0, 2)
    kept = np.isin(everything.user, np.unique(rows.user))
    assert 500 < len(rows) <= 1000
    assert kept.sum() == len(rows)
    for name in ("x", "line", "user", "ts_ms", "delay_s"):
        assert getattr(everything.select(kept), name).tobytes() == getattr(rows, name).tobytes() == getattr(other, name)[::-1].tobytes()
    assert everything.lines == ("a", "b")
    assert everything.delay_s[3].tolist() == [np.inf, 0.003, 0.007]
    assert everything.x[5, 0] == 5.0
    assert 60 < len(np.unique(rows.user)) < 140
