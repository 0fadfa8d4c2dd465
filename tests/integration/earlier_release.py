"""A worker of an earlier release, whose users' records had another layout: for test_schema_change. Settings from the environment."""

from __future__ import annotations

import sys

import numpy as np

import streams.cli  # noqa: F401 - sets the number of threads before anything else is imported
from features import layout

LAYOUT = np.dtype([*layout.USER.descr[:4], ("once", "u8"), *layout.USER.descr[4:]], align=True)
layout.USER = LAYOUT  # type: ignore[misc]


def schema_hash() -> str:
    """Return that release's schema hash."""
    from features.vector import SCHEMA_HASH

    return SCHEMA_HASH


if __name__ == "__main__":
    if sys.argv[1:] == ["hash"]:
        sys.stdout.write(schema_hash())
    else:
        from streams.commands.worker import run
        from streams.settings import load_settings

        run(load_settings(needs=("broker", "redis")))
