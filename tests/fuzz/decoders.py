"""Every decoder of bytes that come from outside this process, with examples of what it should read, and the only errors that it may raise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from features.errors import InputError, Mismatch
from features.events import Refused, Shopper, decode, encode
from features.exposures import NONE, UNMARKED, Closed, Exposure
from features.layout import USER
from features.memory_store import MemoryStore
from features.pending import Pending
from features.store import decoded
from models.checkpoint import MANIFEST, TENSORS, Artifact, load, save
from models.launch_head import LaunchHead
from models.shared_heads import SharedHeads
from streams import trunks
from streams.commands.publish import Lines
from streams.http_access import Access
from streams.importing import read_log
from streams.inbox import Expected
from streams.learner_cursor import LearnerCursor
from streams.lines import _read_mapping
from streams.partition import Cursor, Partition, Rules, Totals
from streams.pipeline import Worked, take_in
from streams.records import Counted, Entry, Launch, Outcome, Score, TickDone, decode_launch, decode_message, decode_score, encode_json, encode_message, received
from streams.settings import load_settings
from tests.builders import EDGES_MS, START_MS, make_artifact, make_event, make_model


@dataclass(frozen=True)
class Decoder:
    """`read` gets any bytes; what it raises must be one of `errors`. `seeds` are bytes that it reads without error."""

    read: Callable[[bytes], Any]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...]


_FOLDER = tempfile.TemporaryDirectory(prefix="headstart-fuzz-")
_HERE = Path(_FOLDER.name)


def _file(name: str, content: bytes) -> Path:
    path = _HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _same(one: Artifact, other: Artifact) -> bool:
    """Whether two artifacts hold the same facts and arrays."""
    return repr(one) == repr(other)


def _record(value: bytes) -> None:
    """A record with the bytes as its value, its key and both comes out as an event or as a reject, and is counted as one of them."""
    partition = Partition(0, MemoryStore(), Rules(edges_ms=EDGES_MS, replay=False), version=0, cursor=_cursor(), pending=Pending(EDGES_MS))
    worked = Worked()
    records = [received(0, 0, b"ann", value), received(1, 1, value[:40], value), received(2, 2, value, None)]
    arrived = take_in(partition, records, START_MS - 1, START_MS + 1, worked)
    assert len(arrived) + len(worked.rejected) == len(records)
    assert [r.value for r in worked.rejected if r.value is not None] == [r.value for r in records if r.value is not None][: len(worked.rejected)] or arrived


def _cursor() -> Cursor:
    return Cursor(epoch=1, offsets=[1, 2, 3, 4], numbers=[5], totals=Totals(read=10, applied=10), counts={"line:shoes": [1, 0, 0, 0, 0, 0]})


def _lines(value: bytes) -> None:
    lines = Lines()
    list(lines.outgoing(value.split(b"\n")))
    list(Lines(raw=True).outgoing(value.split(b"\n")))


def _artifact(which: str) -> Callable[[bytes], None]:
    folder = _HERE / f"trunk-{which}"

    def read(value: bytes) -> None:
        if not folder.exists():
            save(make_artifact("shoes", "hats"), folder)
        before, whole = (folder / which).read_bytes(), load(folder)
        try:
            (folder / which).write_bytes(value)
            found = load(folder)
            assert _same(found, whole), "damaged, and taken for whole"
        finally:
            (folder / which).write_bytes(before)

    return read


def _pending(value: bytes) -> None:
    pending = Pending(EDGES_MS, {"e": value})
    list(pending.close(2**62))


def _record_of_user(value: bytes) -> None:
    if len(value) == USER.itemsize:
        np.frombuffer(value, USER)


def _seeds() -> dict[str, list[bytes]]:
    event = make_event(user=Shopper(age_band="25-34", level=3, registered_ts=START_MS), price=9.5, category="boots", channel="app", kind="browse")
    exposure = Exposure(
        id="00ff00ff00ff00ff", domain="line:shoes", counts=True, user="ann", line="shoes", category="boots", ts_ms=START_MS, x=bytes(4 * 64),
        predictions=msgspec.Raw(msgspec.msgpack.encode([0.1] * 18)), delay_ms=UNMARKED, bin=1,
    )  # fmt: skip
    outcome = Outcome(epoch=1, partition=0, number=3, key="spring", closed=Closed(exposure=exposure, close_ms=START_MS, bin=1, y=0, label=NONE))
    entry = Entry(launch_id=None, line="shoes", exposure_id=None, arm=None, score=0.5, probability=0.1)
    score = Score(score_id="ann:e1", user_id="ann", event_id="e1", kind="browse", product_id="p1", ts=START_MS, entries=[entry], trunk="ab")
    launch = Launch(id="spring", line="shoes", products=["p"], window_s=3600.0)
    model = make_model("shoes", "hats")
    save(model.artifact, _HERE / "seed")
    message = [encode_message(m) for m in (outcome, TickDone(partition=0, tick_ms=5, upto=4))]
    message.append(encode_message(Counted(epoch=1, partition=0, number=0, tick_ms=1, counts={"line:shoes": [1, 0, 0, 0, 0, 0]})))
    return {
        "event": [encode(event), encode(make_event())],
        "message": message,
        "score": [encode_json(score)],
        "launch": [encode_json(launch)],
        "cursor": [msgspec.msgpack.encode(_cursor())],
        "learner": [msgspec.msgpack.encode(LearnerCursor(offset=3, expected={0: Expected(1, 2)}))],
        "exposure": [msgspec.msgpack.encode(exposure)],
        "launch_head": [LaunchHead.of(model).to_bytes()],
        "shared_heads": [SharedHeads.of(model).to_bytes()],
        "activation": [encode_json(trunks.Activation(number=1, sha256="ab", from_ms=2, previous=""))],
        "manifest": [(_HERE / "seed" / MANIFEST).read_bytes()],
        "tensors": [(_HERE / "seed" / TENSORS).read_bytes()],
        "user": [bytes(USER.itemsize)],
        "toml": [b'broker = "a:1"\npartitions = 3\n[topic_names]\nbrowse = "x"\n'],
        "jsonl": [encode(event) + b"\n" + encode(make_event(id="e2")).replace(b"{", b'{"kind":"order",', 1)],
        "mapping": [b"category,line\nboots,shoes\n", b'{"category": {"boots": "shoes"}}'],
        "header": [b"Bearer t0ken", b"Basic YW5uOnB3"],
    }


SEEDS: Final = _seeds()
DECODERS: Final[dict[str, Decoder]] = {
    "event": Decoder(lambda value: decode(value, 0), SEEDS["event"], (Refused,)),
    "record": Decoder(_record, SEEDS["event"], ()),
    "published lines": Decoder(_lines, SEEDS["jsonl"], ()),
    "outcome": Decoder(decode_message, SEEDS["message"], (msgspec.MsgspecError, UnicodeDecodeError)),
    "score": Decoder(decode_score, SEEDS["score"], (msgspec.MsgspecError, UnicodeDecodeError)),
    "launch": Decoder(decode_launch, SEEDS["launch"], (msgspec.MsgspecError, UnicodeDecodeError)),
    "partition's cursor": Decoder(lambda value: decoded(value, Cursor, "a cursor"), SEEDS["cursor"], (Mismatch,)),
    "learner's cursor": Decoder(lambda value: decoded(value, LearnerCursor, "a cursor"), SEEDS["learner"], (Mismatch,)),
    "open exposure": Decoder(_pending, SEEDS["exposure"], (Mismatch,)),
    "launch's head": Decoder(LaunchHead.from_bytes, SEEDS["launch_head"], (Mismatch,)),
    "shared heads": Decoder(SharedHeads.from_bytes, SEEDS["shared_heads"], (Mismatch,)),
    "activation": Decoder(lambda value: trunks.activations({"1": value}), SEEDS["activation"], (msgspec.MsgspecError, UnicodeDecodeError)),
    "trunk's manifest": Decoder(_artifact(MANIFEST), SEEDS["manifest"], (InputError, Mismatch)),
    "trunk's tensors": Decoder(_artifact(TENSORS), SEEDS["tensors"], (InputError, Mismatch)),
    "user's record": Decoder(_record_of_user, SEEDS["user"], ()),
    "settings file": Decoder(lambda value: load_settings(_file("settings.toml", value)), SEEDS["toml"], (InputError,)),
    "log as JSON lines": Decoder(lambda value: read_log(_file("log.jsonl", value)), SEEDS["jsonl"], (InputError,)),
    "log as Parquet": Decoder(lambda value: read_log(_file("log.parquet", value)), [b"PAR1" + bytes(40) + b"PAR1"], (InputError,)),
    "mapping of lines": Decoder(lambda value: _read_mapping(_file("lines", value)), SEEDS["mapping"], (InputError,)),
    "authorization": Decoder(lambda value: Access("t", "u", "p").allows(value.decode("latin-1"), value.decode("latin-1")), SEEDS["header"], ()),
}


def check(name: str, value: bytes) -> None:
    """Fail if a decoder raises what it may not."""
    decoder = DECODERS[name]
    with suppress(*decoder.errors):
        decoder.read(value)
