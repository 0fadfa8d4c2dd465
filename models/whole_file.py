"""A file that has its name only when it is whole: whoever reads it sees the old one or the new one, never a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Yield a path beside `file` to write to, which takes its name when the block has ended well, and is removed otherwise.

    A pipe or a device, such as /dev/stdout, is written to itself; of a link, what it leads to takes the place of what it led to.
    """
    if not can_be_replaced(file):
        yield file
        return
    file = file.resolve()
    partial = file.with_name(file.name + ".partial")
    try:
        yield partial
        partial.replace(file)
    except BaseException:  # interrupted, or told to stop, too
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def can_be_replaced(file: Path) -> bool:
    """Whether it is a file of its own, or will be."""
    return not file.exists() or file.is_file()
