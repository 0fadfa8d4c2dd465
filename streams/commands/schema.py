"""`headstart schema`: write the JSON Schema of events and scores, and an AsyncAPI document of the topics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from features.errors import InputError
from features.events import KINDS, REASONS, Event
from features.log import SCHEMA
from streams import meters
from streams.records import Score
from streams.topics import DAY_MS, TOPICS

LOG_COLUMNS = {
    "event_id": "unique for a user; a repeat is dropped",
    "kind": ", ".join(KINDS),
    "line": "the product line; what is launched is a line, or products of one",
    "ts": "milliseconds since the epoch; a timestamp column is taken too, ISO text is not",
    "category": "the line, where there is none",
    **dict.fromkeys(("age_band", "gender", "level", "region"), "of the shopper, as of the event; not in a nested column `user` as on the wire"),
    "registered_ts": "when the shopper registered, as `ts`",
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")] = Path("docs/schema")) -> None:
    """Write event.schema.json, score.schema.json and asyncapi.json, made from the record types that the program itself uses; log.md, the columns of a log as Parquet; and metrics.md,
    its list of figures.
    """
    schemas = {"event.schema.json": _schema(Event), "score.schema.json": _schema(Score), "asyncapi.json": asyncapi()}
    files = {name: json.dumps(content, indent=2) + "\n" for name, content in schemas.items()}
    files |= {"log.md": "\n".join(log_page()) + "\n", "metrics.md": "\n".join(meters.page()) + "\n"}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    typer.echo("\n".join(str(out / name) for name in files))


def _schema(record: type) -> dict[str, Any]:
    return {"$schema": DIALECT, **msgspec.json.schema(record)}


def log_page() -> list[str]:
    """Return the lines of a page on the columns of a log as Parquet."""
    lines = [
        "# A log of events as Parquet", "",
        "Made by `headstart schema`. What `evaluate`, `pretrain`, `similarity`, `backfill` and `replay` read as `--format parquet`; `pretrain` and `backfill` also a folder of files in order of `ts`.",
        "Other columns are passed over. As JSONL it is the events as on the wire ([event.schema.json](event.schema.json)), each with its `kind`.", "",
        "| column | type | | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    return lines + [
        f"| `{column.name}` | {column.type} | {'optional' if column.nullable else '**required**'} | {LOG_COLUMNS.get(column.name, '')} |" for column in SCHEMA
    ]


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document: what a shop sends, what it may read, and why an event may come back."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    files = {**dict.fromkeys(KINDS, "event.schema.json"), "scores": "score.schema.json"}
    for spec in TOPICS:
        message: dict[str, Any] = {"summary": spec.description, "contentType": "application/json" if spec.name in files else "application/octet-stream"}
        if spec.name in files:
            message["payload"] = {"$ref": files[spec.name]}
        told = f"key: {spec.key}; value: {spec.value}; kept for {spec.retention_ms // DAY_MS} days"
        channels[spec.name] = {"address": spec.name, "description": told, "messages": {spec.name: message}}
        action = "receive" if spec.name in KINDS else "send"
        operations[spec.name] = {"action": action, "channel": {"$ref": f"#/channels/{spec.name}"}}
    reasons = "; ".join(f"{name}: {text}" for name, text in REASONS.items())
    channels["rejected"]["description"] += f". The header headstart-reason is one of: {reasons}"
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Headstart", "version": "1", "description": "Events in, scores out, over Kafka."},
        "channels": channels,
        "operations": operations,
    }
