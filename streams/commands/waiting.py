"""Waiting for what is not there yet: whatever starts all parts of a system at once need not start them in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import typer

from features.errors import DependencyDown

TELL_S: Final = 5.0
T = TypeVar("T")


def patiently(ask: Callable[[], T], *, patience_s: float) -> T:
    """Return what `ask` returns, asking until it raises DependencyDown no more, or raises it after `patience_s`. A longer wait is told on stderr."""
    give_up_s, told = time.monotonic() + patience_s, False
    while True:
        try:
            return ask()
        except DependencyDown as down:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                raise
            if not told and left_s > TELL_S:
                told = True
                typer.echo(f"{down}; waiting for up to {left_s:.0f} s", err=True)
            time.sleep(min(1.0, left_s))
