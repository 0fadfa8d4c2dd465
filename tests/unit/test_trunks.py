"""The control records of trunks: what is active, what a rollback goes back to, and that nothing but what was promised comes out of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from features.errors import InputError, Mismatch
from features.exposures import UNMARKED, Exposure
from features.memory_store import MemoryStore
from models.checkpoint import TENSORS, Artifact, load, save
from models.model import Model
from streams import namespace, trunks
from streams.commands.pretrain import read_attributes, read_weights
from streams.commands.trunk import KEEP, PROMOTE, UNDECIDED, as_json, judge, verdict
from streams.trunks import Activation, Shelf, active
from tests.builders import START_MS, make_artifact


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three trunks on disk; the third has another scaler."""
    root = tmp_path_factory.mktemp("trunks")
    made = [make_artifact("shoes", seed=0), make_artifact("shoes", "hats", seed=1), make_artifact("shoes", seed=2)]
    made[2] = replace(made[2], trunk=replace(made[2].trunk, mean=made[2].trunk.mean + 1.0))
    for i, artifact in enumerate(made):
        save(artifact, root / str(i))
    return [root / str(i) for i in range(3)]


def go(work: Coroutine[Any, Any, None]) -> None:
    """Run it."""
    asyncio.run(work)


async def begun(folders: list[Path]) -> tuple[MemoryStore, list[Artifact]]:
    """A namespace that was made with the first trunk."""
    store, made = MemoryStore(), [load(folder) for folder in folders]
    await trunks.keep(store, folders[0], made[0])
    return store, made


def test_going_back_twice_goes_back_two_trunks(folders: list[Path]) -> None:
    """Promote b and c, roll back to b and then to a; there is nothing before a. Numbers and times rise; the artifacts stay in the store."""

    async def work() -> None:
        store, (a, b, c) = await begun(folders)
        base = a.sha256
        one, carried = await trunks.promote(store, folders[1], b, base=base, stamped=0, at_ms=10)
        assert (one, carried) == (Activation(number=1, sha256=b.sha256, from_ms=10, previous=base), True)
        two, carried = await trunks.promote(store, folders[2], c, base=base, stamped=0, at_ms=20)
        assert (two.previous, carried) == (b.sha256, False)
        back, carried = await trunks.rollback(store, base=base, stamped=2, at_ms=5)
        assert (back, carried) == (Activation(number=3, sha256=b.sha256, from_ms=20, previous=base), False)
        first, carried = await trunks.rollback(store, base=base, stamped=3, at_ms=30)
        assert (first.sha256, first.previous, carried) == (base, "", True)
        with pytest.raises(InputError, match="no earlier trunk"):
            await trunks.rollback(store, base=base, stamped=4, at_ms=40)
        found = await trunks.read(store)
        assert [active(found, base, ms) for ms in (9, 10, 19, 20, 29, 30)] == [base, b.sha256, b.sha256, b.sha256, b.sha256, base]
        assert [await trunks.is_kept(store, sha256) for sha256 in (base, b.sha256, c.sha256, "another")] == [True, True, True, False]

    go(work())


def test_an_artifact_comes_out_of_the_store_as_it_went_in_or_not_at_all(folders: list[Path]) -> None:
    """The same artifact, verified by sha256: a damaged one, one under another's name and a missing one are refused."""

    async def work() -> None:
        store, (a, b, _) = await begun(folders)
        await trunks.promote(store, folders[1], b, base=a.sha256, stamped=0, at_ms=0)
        got = await trunks.fetch(store, b.sha256)
        assert got.sha256 == b.sha256
        assert got.heads["raw_final"].p.tobytes() == b.heads["raw_final"].p.tobytes()
        assert (await trunks.manifest(store, b.sha256) or {})["lines"] == ["shoes", "hats"]
        held = store._hashes[trunks.CONTROL_SLOT, trunks.ARTIFACTS]
        raw = held[f"{b.sha256}:{TENSORS}"]
        held[f"{b.sha256}:{TENSORS}"] = raw[:-1] + bytes([raw[-1] ^ 1])
        with pytest.raises(Mismatch):
            await trunks.fetch(store, b.sha256)
        for name in list(held):
            if name.startswith(a.sha256):
                held[name.replace(a.sha256, b.sha256)] = held[name]
        with pytest.raises(Mismatch, match="damaged"):
            await trunks.fetch(store, b.sha256)
        with pytest.raises(Mismatch, match="not in the namespace's store"):
            await trunks.fetch(store, "f" * 64)

    go(work())


def test_a_trunk_that_cannot_follow_is_refused_and_nothing_is_written(folders: list[Path], tmp_path: Path) -> None:
    """Another window or other bins, said in one line; the active one; one whose folder changed while it was read."""

    async def work() -> None:
        store, (a, b, _) = await begun(folders)
        other = save(make_artifact("shoes", edges_ms=(60_000, 600_000)), tmp_path)
        before = (await store.load(trunks.CONTROL_SLOT, ())).version
        with pytest.raises(Mismatch, match=r"attribution window.*delay bins"):
            await trunks.promote(store, tmp_path, other, base=a.sha256, stamped=0, at_ms=0)
        with pytest.raises(InputError, match="active one already"):
            await trunks.promote(store, folders[0], a, base=a.sha256, stamped=0, at_ms=0)
        with pytest.raises(Mismatch, match="is"):
            await trunks.promote(store, folders[2], b, base=a.sha256, stamped=0, at_ms=0)
        assert (await store.load(trunks.CONTROL_SLOT, ())).version == before

    go(work())


def test_numbers_go_on_above_what_was_stamped(folders: list[Path]) -> None:
    """Where the control records were put back to an older state, a new activation is still ahead of every head."""

    async def work() -> None:
        store, (a, b, _) = await begun(folders)
        done, _ = await trunks.promote(store, folders[1], b, base=a.sha256, stamped=7, at_ms=0)
        assert done.number == 8

    go(work())


def test_a_trunk_is_kept_once(folders: list[Path]) -> None:
    """Every worker offers its trunk; only the first one writes."""

    async def work() -> None:
        store, (a, *_) = await begun(folders)
        before = (await store.load(trunks.CONTROL_SLOT, ())).version
        await trunks.keep(store, folders[0], a)
        assert (await store.load(trunks.CONTROL_SLOT, ())).version == before

    go(work())


def test_a_process_takes_models_from_its_folder_or_from_the_store(folders: list[Path]) -> None:
    """Its own one as it is, "" is the namespace's first one, others from the store and made once; an activation counts from its time."""

    async def work() -> None:
        store, (a, b, c) = await begun(folders)
        own, now_ms = Model(b), 0
        shelf = Shelf(store, own, a.sha256, clock_ms=lambda: now_ms)
        assert await shelf.model(b.sha256) is own
        assert (await shelf.model("")).artifact.sha256 == a.sha256
        assert await shelf.model("") is await shelf.model(a.sha256)
        await trunks.promote(store, folders[2], c, base=a.sha256, stamped=0, at_ms=10)
        await shelf.take(store._hashes[trunks.CONTROL_SLOT, trunks.ACTIVATIONS])
        assert shelf.after(0) is None
        now_ms = 10
        following = shelf.after(0)
        assert following is not None
        assert following.sha256 == c.sha256
        assert shelf.after(1) is None

    go(work())


def test_a_worker_may_come_with_any_trunk_that_was_active(folders: list[Path]) -> None:
    """The first process makes the namespace; a later one needs its trunk, or one that was promoted since; all else must be the same still."""

    async def work() -> None:
        store, (a, b, _) = await begun(folders)
        wanted = {"clock": "live", "trunk": a.sha256}
        assert await namespace.join(store, wanted, "n") == wanted
        with pytest.raises(Mismatch, match="namespace 'n' differs in the trunk"):
            await namespace.join(store, {**wanted, "trunk": b.sha256}, "n")
        await trunks.promote(store, folders[1], b, base=a.sha256, stamped=0, at_ms=0)
        assert (await namespace.join(store, {**wanted, "trunk": b.sha256}, "n"))["trunk"] == a.sha256
        with pytest.raises(Mismatch, match="the clock"):
            await namespace.join(store, {"clock": "replay:1", "trunk": b.sha256}, "n")

    go(work())


def exposures(n: int, *, better: float = 0.0, seed: int = 0) -> dict[str, tuple[Exposure, int]]:
    """Final exposures of two lines; `better` is how far their probabilities lie nearer to the truth."""
    draw = np.random.default_rng(seed)
    truth = draw.beta(1, 6, n)
    label = (draw.random(n) < truth).astype(int)
    said = better * truth + (1 - better) * draw.permutation(truth)
    return {
        f"{i:016x}": (
            Exposure(id=f"{i:016x}", domain=("line:shoes", "spring")[i % 2], user=f"u{i % (n // 3)}", line="shoes", category="c", counts=True,
                     ts_ms=START_MS, x=b"", predictions=msgspec.Raw(msgspec.msgpack.encode([float(said[i])] * 2)), delay_ms=UNMARKED, bin=1),
            int(label[i]),
        )
        for i in range(n)
    }  # fmt: skip


def test_the_verdict_asks_for_a_gain_beyond_chance() -> None:
    """A clearly better challenger is promoted, a clearly worse one is not, nor one that says the same; only what both opened is judged."""
    good, bad = exposures(1500, better=0.9), exposures(1500)
    for champion, challenger, expected in ((bad, good, PROMOTE), (good, bad, KEEP), (good, good, UNDECIDED)):
        found = judge(champion, challenger, resamples=100)
        assert found is not None
        assert verdict(found) == expected
        assert set(as_json(found)) == {"log_loss", "auc"}
    some = dict(list(good.items())[:400])
    found = judge(bad, some, resamples=20)
    assert found is not None
    assert (found.rows, found.groups) == (400, 2)
    assert judge(bad, {}) is None


def test_source_weights_and_attributes_are_read_or_refused(tmp_path: Path) -> None:
    """What `headstart similarity --json` writes, and a table of numbers; anything else is named with the option."""
    file = tmp_path / "f.json"
    file.write_text('{"target": "new", "sources": [{"line": "shoes", "weight": 0.5, "verdict": "weighted"}, {"line": "hats", "weight": 0}]}')
    assert read_weights(file) == {"shoes": 0.5, "hats": 0.0}
    file.write_text('{"shoes": {"price": 3, "age": 1.5}}')
    assert read_attributes(file) == {"shoes": {"price": 3.0, "age": 1.5}}
    with pytest.raises(InputError, match="--source-weights"):
        read_weights(file)
    file.write_text('{"sources": [{"line": "shoes", "weight": 2}]}')
    with pytest.raises(InputError, match="--source-weights"):
        read_weights(file)
    with pytest.raises(InputError, match="--attributes"):
        read_attributes(tmp_path / "none.json")
