"""Times given in seconds where milliseconds are meant: they lie in January 1970, and nothing that has them fails by itself."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final

import typer

YEAR_2000_MS: Final = 946_684_800_000


def day(ms: int) -> str:
    """Return a time's day, UTC."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d")


def note_seconds(log: Path, last_ms: int) -> None:
    """Say so on standard error where a log ends before 2000. It may be meant, so it is no error."""
    if last_ms < YEAR_2000_MS:
        typer.echo(f"note: {log} ends on {day(last_ms)}: are its milliseconds seconds?", err=True)
