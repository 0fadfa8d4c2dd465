"""Files that are written whole or not at all: what was there stays, and nothing half-written is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from features.errors import InputError
from models.whole_file import written_whole
from streams import cli
from streams.audience import Audience, write
from streams.importing import write_log
from tests.builders import make_log, random_events

CHOSEN = Audience(np.array(["ann", "bob"]), np.array([0.5, 0.25]), np.array([0.2, 0.1]), np.array([2, 1], np.int64))


def test_whatever_ends_the_writing_leaves_what_was_there(tmp_path: Path) -> None:
    """Also an interruption; a block that ends well puts the new one in its place."""
    file = tmp_path / "file"

    def put(text: str, error: type[BaseException] | None = None) -> None:
        with written_whole(file) as partial:
            partial.write_text(text)
            if error is not None:
                raise error

    file.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            put("new", error)
        assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])
    put("new")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("new", [file])


def test_pipes_and_links_stay_what_they_are(tmp_path: Path) -> None:
    """A named pipe is written to itself, as /dev/stdout is; a link goes on leading to the file, which is the new one."""
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    target.write_text("old")
    link.symlink_to(target)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for file in (pipe, link):
        with written_whole(file) as place:
            place.write_text("new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert (pipe.is_fifo(), link.is_symlink(), target.read_text()) == (True, True, "new")
    assert sorted(tmp_path.iterdir()) == [link, pipe, target]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file on which the disk is always full")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    """An audience, and a log: the list of the last campaign is not cut off."""
    file = tmp_path / f"chosen{suffix}"
    write(CHOSEN, file)
    before = file.read_bytes()
    partial = tmp_path / f"chosen{suffix}.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"--out .* cannot be written: .*No space left"):
        write(CHOSEN, file)
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])
    if suffix != ".csv":
        partial.symlink_to("/dev/full")
        with pytest.raises(InputError, match=r"cannot write .*No space left"):
            write_log(make_log(random_events(20, seed=1)), file)
        assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])


@pytest.mark.parametrize("place", ["missing/chosen.csv", "folder.csv"])
def test_an_audience_is_refused_before_it_is_drawn(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there, or stands where the file should, is found before every shopper is scored."""
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr("streams.commands.audience.gather", lambda *_, **__: pytest.fail("shoppers were scored"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["audience", "novel", "--out", str(tmp_path / place), "--redis", "redis://127.0.0.1:1"])
    assert (ended.value.code, capsys.readouterr().err) == (1, f"headstart: --out {tmp_path / place} cannot be written\n")
