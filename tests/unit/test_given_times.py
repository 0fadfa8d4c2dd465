"""Times and numbers as a command takes them: what is in seconds is refused or told, and what only looks like a number is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import InputError
from streams import cli
from streams.audience import read_share
from streams.commands.options import time_ms, whole_number
from streams.importing import read_log, write_log
from streams.log_parts import LogParts, open_log
from tests.builders import make_log, random_events


@pytest.mark.parametrize(
    ("text", "ms"), [("1795824000000", 1_795_824_000_000), ("1999-12-31T00:00Z", 946_598_400_000), ("2026-09-01T00:00+02:00", 1_788_213_600_000)]
)
def test_a_time_is_milliseconds_or_iso_8601(text: str, ms: int) -> None:
    """As it was given; a day before 2000 that is written out is meant."""
    assert time_ms("--from", text) == ms


@pytest.mark.parametrize(("text", "day"), [("1795824000", "1970-01-21"), ("0", "1970-01-01"), ("20260901", "1970-01-01"), ("946684799999", "1999-12-31")])
def test_a_number_before_2000_is_taken_for_seconds(text: str, day: str) -> None:
    """The line names the option, what was given, and the day that it would be."""
    with pytest.raises(InputError, match=rf"--from {text}: is it in seconds\? In milliseconds it is on {day}"):
        time_ms("--from", text)


@pytest.mark.parametrize("text", ["²", "--5", "-5", "9" * 5000, "1" * 19, "", "soon"])
def test_what_only_looks_like_a_number_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Superscripts, two signs, more digits than Python converts: no traceback, and no wall of digits."""
    assert whole_number(text) is None
    with pytest.raises(InputError, match="--from"):
        time_ms("--from", text)
    for name, value in (("BROKER", "127.0.0.1:1"), ("REDIS", "redis://127.0.0.1:1")):
        monkeypatch.setenv(f"HEADSTART_{name}", value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["cursor", "move", "--partition", "all", "--topic", "browse", f"--to={text}"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "expected an offset, beginning, end" in said and len(said) < 300


@pytest.mark.parametrize("text", ["²", "²%", "--5", "9" * 5000])
def test_a_share_is_no_such_text_either(text: str) -> None:
    """As above."""
    with pytest.raises(InputError, match="expected a share"):
        read_share(text)


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_log_in_seconds_is_told(by_parts: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, however often a log in parts is read; a log in milliseconds says nothing."""
    for name, divisor, said in (("good", 1, ""), ("bad", 1000, "note: {} ends on 1970-01-20: are its milliseconds seconds?\n")):
        log = make_log(random_events(50, seed=1))
        seconds = log.set_column(log.schema.get_field_index("ts"), "ts", [[ts // divisor for ts in log["ts"].to_pylist()]])
        write_log(seconds, path := tmp_path / f"{name}.parquet")
        found = open_log(path, by_parts=by_parts)
        if isinstance(found, LogParts):
            assert [part.num_rows for part in found] == [part.num_rows for part in found]
        else:
            assert found.num_rows == read_log(tmp_path / "good.parquet").num_rows
        assert capsys.readouterr().err == said.format(path)
