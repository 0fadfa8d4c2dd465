"""An event log in memory: one Arrow table, sorted as it would have happened. Importers and the simulated shop make it."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from features.events import KINDS, Event, Shopper

SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("product_id", pa.string(), nullable=False),
        pa.field("line", pa.string(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),  # milliseconds since the epoch
        ("category", pa.string()),
        ("channel", pa.string()),
        ("session_id", pa.string()),
        ("campaign_id", pa.string()),
        ("price", pa.float64()),
        ("quantity", pa.float64()),
        ("age_band", pa.string()),
        ("gender", pa.string()),
        ("level", pa.int64()),
        ("region", pa.string()),
        ("registered_ts", pa.int64()),
    ]
)


def in_order(table: pa.Table) -> pa.Table:
    """Return the log with the columns of `SCHEMA` (absent optional ones are null), sorted by (ts, event_id, kind, user_id).

    Raises ValueError with the column's name when a required one is missing or holds nulls.
    """
    columns = []
    for field in SCHEMA:
        if field.name not in table.column_names:
            if not field.nullable:
                raise ValueError(f"the log has no column {field.name!r}; it has {', '.join(table.column_names)}")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table[field.name].cast(field.type)
        if not field.nullable and column.null_count:
            raise ValueError(f"column {field.name!r} holds {column.null_count} nulls")
        columns.append(column)
    unknown = set(pc.unique(columns[1]).to_pylist()) - set(KINDS)
    if unknown:
        raise ValueError(f"column 'kind' holds {sorted(unknown)[:3]}; expected one of {', '.join(KINDS)}")
    ordered = pa.Table.from_arrays(columns, schema=SCHEMA)
    return ordered.sort_by([("ts", "ascending"), ("event_id", "ascending"), ("kind", "ascending"), ("user_id", "ascending")])


def events(table: pa.Table) -> Iterator[tuple[str, Event]]:
    """Yield (kind, event) for each row of a log, in its order. The event's `kind` field is left out: the topic says it."""
    for batch in table.to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            shopper = Shopper(**{name: row[name] for name in ("age_band", "gender", "level", "region", "registered_ts")})
            yield (
                row["kind"],
                Event(
                    **{
                        name: row[name]
                        for name in (
                            "event_id",
                            "user_id",
                            "product_id",
                            "line",
                            "ts",
                            "category",
                            "channel",
                            "session_id",
                            "campaign_id",
                            "price",
                            "quantity",
                        )
                    },
                    user=None if shopper == Shopper() else shopper,
                ),
            )
