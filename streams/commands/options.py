"""Options that several commands share, and how a command writes its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings (default: headstart.toml here, if there is one).")]
Broker = Annotated[str | None, typer.Option("--broker", metavar="HOST:PORT[,…]", help="Kafka brokers to start from.")]
Redis = Annotated[str | None, typer.Option("--redis", metavar="URL", help="Redis or Valkey, such as redis://127.0.0.1:6379/0.")]
Namespace = Annotated[str | None, typer.Option("--namespace", metavar="NAME", help="Prefix of every Redis key (default: live).")]
Trunk = Annotated[Path | None, typer.Option("--trunk", metavar="FOLDER", help="Folder of the trained trunk (default: var/trunk).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting that `headstart config` lists; may be given again.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON; - is standard output.")]


def write_json(file: Path, figures: object) -> None:
    """Write `figures` as indented JSON with a newline at its end; "-" is standard output. Raises InputError if the file cannot be written.

    NaN and infinity are not JSON: give None for a figure that does not exist.
    """
    text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {file} cannot be written: {error.strerror}") from None
