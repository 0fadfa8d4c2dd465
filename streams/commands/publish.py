"""`headstart publish`: the events of a file, or of standard input, sent to Kafka as live events."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from features.errors import InputError
from features.events import KINDS, MIN_TS_MS, Refused, decode
from features.log import events
from streams import tracing
from streams.commands.options import Broker, Config, Redis, Set, time_ms
from streams.kafka_access import client_config
from streams.publisher import Outgoing, numbered_lines, publish_events, publish_records
from streams.settings import Settings, load_settings
from streams.topics import broker_names
from streams.tracing import Published

SHOWN = 20  # refused lines that are printed one by one


class _Kind(msgspec.Struct):
    kind: str


class _Keyed(msgspec.Struct):
    kind: str | None = None
    user_id: str | None = None


_kind_of = msgspec.json.Decoder(_Kind)
_keyed = msgspec.json.Decoder(_Keyed)


def publish(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="Events as JSON lines (.jsonl; each with its kind) or as Parquet; - reads JSON lines from standard input.")
    ],
    broker: Broker = None,
    redis: Redis = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send JSON lines as they are, broken ones too (to browse if they name no kind), to see how they are refused.")
    ] = False,
    from_: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Only events at or after it, ISO 8601 or ms.")] = None,
    config: Config = None,
    assignments: Set = None,
) -> None:
    """Send events to Kafka, and return when the broker has all of them.

    A JSON line is an event with its kind: {"kind": "browse", "event_id": "e1", "user_id": "u1", "product_id": "p1", "line": "shoes",
    "ts": 1767225600000}. With --redis, the namespace is asked first whether it belongs to these topics. Lines that are no valid event are reported by number and left out, and the exit code is then 1.
    """
    settings = load_settings(config, needs=("broker",), assignments=assignments or (), broker=broker, redis=redis)
    topics = broker_names(settings.topic_prefix, settings.topic_names)
    if settings.redis:
        from streams import namespace  # needs Redis' client, which a publisher without --redis does not

        asyncio.run(namespace.check_publisher(settings))
    if raw and from_ is not None:
        raise InputError("--raw sends every line as it is: --from does not go with it")
    lines = Lines(raw=raw, from_ms=time_ms("--from", from_) if from_ is not None else MIN_TS_MS)
    with tracing.tracer("headstart-publisher") if settings.trace_share else nullcontext() as tracer:
        counts = _send(settings, file, lines, topics, Published(tracer, settings.trace_share) if tracer is not None else None)
    if sys.stderr.isatty():
        typer.echo("", err=True)
    typer.echo(f"published {sum(counts.values())} events: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS))
    if lines.refused:
        more = f" (the first {SHOWN} are above)" if lines.refused > SHOWN else ""
        raise InputError(f"{lines.refused} lines were refused and not sent{more}")


def _send(settings: Settings, file: str, lines: Lines, topics: dict[str, str], traces: Published | None) -> dict[str, int]:
    access = client_config(settings)
    if file == "-":
        return publish_records(settings.broker, lines.outgoing(sys.stdin.buffer), topics, client_config=access, progress=_progress, traces=traces)
    if file.endswith((".jsonl", ".ndjson", ".json")):
        try:
            with Path(file).open("rb") as stream:
                return publish_records(settings.broker, lines.outgoing(stream), topics, client_config=access, progress=_progress, traces=traces)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if lines.raw:
        raise InputError("--raw is for JSON lines; a Parquet log holds valid events only")
    import pyarrow.compute as pc

    from streams.importing import read_log

    log = read_log(Path(file))
    log = log.filter(pc.field("ts") >= lines.from_ms)
    return publish_events(settings.broker, events(log), topics, client_config=access, progress=_progress, traces=traces)


def _progress(sent: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{sent} events sent", nl=False, err=True)


@dataclass
class Lines:
    """JSON lines on their way to Kafka; counts those that were refused."""

    raw: bool = False
    from_ms: int = MIN_TS_MS
    refused: int = field(default=0, init=False)

    def outgoing(self, stream: Iterable[bytes]) -> Iterator[Outgoing]:
        """Yield a record for each line; the bytes of the line are the value. Refused lines are reported on standard error and left out."""
        for number, line in numbered_lines(stream):
            if self.raw:
                yield _unvalidated(line)
                continue
            try:
                record, ts_ms = _validated(line)
            except Refused as refusal:
                self.refused += 1
                if self.refused <= SHOWN:
                    typer.echo(f"line {number}: {refusal}", err=True)
                continue
            if ts_ms >= self.from_ms:
                yield record


def _validated(line: bytes) -> tuple[Outgoing, int]:
    try:
        kind = _kind_of.decode(line).kind
    except msgspec.ValidationError as error:
        raise Refused("wrong_shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("not_json", str(error)[:200]) from None
    if kind not in KINDS:
        raise Refused("wrong_shape", f"kind {kind[:40]!r}; expected one of {', '.join(KINDS)}")
    event, ts_ms = decode(line, KINDS.index(kind))
    return Outgoing(kind, event.user_id.encode(), line), ts_ms


def _unvalidated(line: bytes) -> Outgoing:
    try:
        seen = _keyed.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Outgoing(KINDS[0], None, line)
    return Outgoing(seen.kind if seen.kind in KINDS else KINDS[0], None if seen.user_id is None else seen.user_id.encode(), line)
