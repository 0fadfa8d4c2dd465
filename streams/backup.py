"""A namespace in a file: everything that it holds in Redis, key by key, with a checksum. For moving house, for a way back, and for another number of partitions.

    header ▸ keys ... ▸ end (how many keys, sha256 of all before)        gzip of length-prefixed msgpack

A backup is taken at rest: the versions of all slots must be the same after it as before. Of a Redis that is being written, Redis' own snapshot (its RDB
or append-only file) is the backup: it is of one moment by itself. What happened after the backup is worked again from Kafka, from the cursors in it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from features.errors import InputError, Mismatch
from features.redis_store import Entry, RedisStore
from streams.namespace import RESTORED, sizes_of

FORMAT: Final = 1
AT_ONCE: Final = 500  # keys that are written together

Progress = Callable[[int], None]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the file is of; `meta` is the namespace's description, `versions` those of its slots."""

    headstart_backup: int = FORMAT
    namespace: str
    made_at_ms: int
    meta: dict[str, str]
    versions: dict[str, str]


class _End(msgspec.Struct, frozen=True, kw_only=True):
    keys: int
    sha256: str


_encode = msgspec.msgpack.Encoder().encode


class NotAtRest(Mismatch):
    """The namespace is being worked. Operator action: stop the workers, or copy Redis' own snapshot; then try again."""


async def versions(store: RedisStore) -> dict[str, str]:
    """Return the version of every slot of the namespace."""
    slots = sorted({slot async for slot, name in store.names() if name == "cursor"})
    return {slot: str((await store.load(slot, ())).version) for slot in slots}


async def write(store: RedisStore, namespace: str, file: Path, *, progress: Progress = lambda _: None) -> Header:
    """Write the namespace into a new file, whole or not at all. Raises NotAtRest, and InputError if there is nothing or the file cannot be written."""
    meta = await store.meta()
    sizes_of(meta, namespace)
    header = Header(namespace=namespace, made_at_ms=time.time_ns() // 1_000_000, meta=meta, versions=await versions(store))
    part = file.with_name(file.name + ".part")
    try:
        with gzip.open(part, "wb", compresslevel=3) as out:
            checksum, keys = hashlib.sha256(), 0

            def frame(value: object) -> None:
                raw = _encode(value)
                raw = len(raw).to_bytes(4, "big") + raw
                checksum.update(raw)
                out.write(raw)

            frame(header)
            async for entry in store.entries():
                frame(entry)
                keys += 1
                if keys % 1_000 == 0:
                    progress(keys)
            frame(_End(keys=keys, sha256=checksum.hexdigest()))
        progress(keys)
        if await versions(store) != header.versions:
            raise NotAtRest(
                f"namespace {namespace!r} was worked while it was read: stop the workers, or copy Redis' own snapshot (BGSAVE), which is of one moment"
            )
        os.replace(part, file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return header


def read_header(file: Path) -> Header:
    """Return what a file is of. Raises InputError if it is no backup."""
    with _Opened(file) as frames:
        return _header(next(frames, b""), file)


def read_entries(file: Path) -> Iterator[Entry]:
    """Yield the keys of a backup. Raises InputError, at its end, if the file was cut or changed: `check` before anything is written."""
    decode_entry, decode_end = msgspec.msgpack.Decoder(Entry).decode, msgspec.msgpack.Decoder(_End).decode
    with _Opened(file) as frames:
        checksum, keys, held = hashlib.sha256(), 0, next(frames, b"")
        _header(held, file)
        for raw in frames:
            checksum.update(len(held).to_bytes(4, "big") + held)
            held = raw
            try:
                yield decode_entry(raw)
                keys += 1
            except msgspec.ValidationError:
                break
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise InputError(f"{file} was damaged: its key number {keys + 1} cannot be read") from None
        try:
            end = decode_end(held)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise InputError(f"{file} was cut: it has no end") from None
        if (end.keys, end.sha256) != (keys, checksum.hexdigest()):
            raise InputError(f"{file} was damaged: its checksum is not that of its {keys} keys")


def check(file: Path) -> Header:
    """Read a backup to its end. Raises InputError if it is not whole."""
    for _ in read_entries(file):
        pass
    return read_header(file)


class _Opened:
    """The frames of a file, and errors in one line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> Iterator[bytes]:
        try:
            self._in = gzip.open(self._file, "rb")
        except OSError as error:
            raise InputError(f"{self._file} cannot be read: {error.strerror or error}") from None
        return self._frames()

    def _frames(self) -> Iterator[bytes]:
        try:
            while length := self._in.read(4):
                size = int.from_bytes(length, "big")
                raw = self._in.read(size)
                if len(raw) < size:
                    return
                yield raw
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{self._file} is no whole backup: {error}") from None

    def __exit__(self, *_: object) -> Literal[False]:
        self._in.close()
        return False


def _header(raw: bytes, file: Path) -> Header:
    try:
        header = msgspec.msgpack.decode(raw, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InputError(f"{file} is no backup of Headstart") from None
    if header.headstart_backup != FORMAT:
        raise InputError(f"{file} is a backup of format {header.headstart_backup}, this version reads {FORMAT}")
    return header


async def put(store: RedisStore, entries: Iterable[Entry], meta: Mapping[str, str], *, meanwhile: str = RESTORED, progress: Progress = lambda _: None) -> int:
    """Write keys into a namespace that holds nothing (or in the place of all that it holds), and its description at last; returns how many.

    `meanwhile` is what its description says until then. What was begun and not ended is begun again.
    """
    await store.put_meta({**meta, "partitions": meanwhile})
    await store.delete_entries()
    batch: list[Entry] = []
    keys = 0
    for entry in entries:
        batch.append(entry)
        if len(batch) == AT_ONCE:
            await store.put_entries(batch)
            keys += len(batch)
            batch.clear()
            progress(keys)
    await store.put_entries(batch)
    progress(keys + len(batch))
    await store.put_meta(meta)
    return keys + len(batch)
