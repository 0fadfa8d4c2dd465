"""What is not there yet is waited for, and what stays away is an error in the end."""

from __future__ import annotations

import pytest

from features.errors import DependencyDown, Mismatch
from streams.commands import waiting
from streams.commands.waiting import patiently


class Clock:
    """Stands still but for sleeping."""

    now_s = 100.0

    def monotonic(self) -> float:
        """What time it is."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


class Absent:
    """Answers from `until_s` on."""

    def __init__(self, clock: Clock, until_s: float) -> None:
        self.clock, self.until_s, self.asked = clock, until_s, 0

    def __call__(self) -> str:
        """Answer, or be away."""
        self.asked += 1
        if self.clock.now_s < self.until_s:
            raise DependencyDown("nobody there")
        return "here"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that `patiently` looks at."""
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def test_it_waits_until_the_answer_comes_and_says_once_that_it_does(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, however often it asks."""
    assert patiently(Absent(clock, 140.0), patience_s=60.0) == "here"
    assert capsys.readouterr().err == "nobody there; waiting for up to 60 s\n"
    assert 140.0 <= clock.now_s < 142.0


def test_patience_ends(clock: Clock) -> None:
    """What stays away is told when the time is over."""
    with pytest.raises(DependencyDown, match="nobody there"):
        patiently(Absent(clock, 1_000.0), patience_s=60.0)
    assert clock.now_s == pytest.approx(160.0)


def test_without_patience_it_asks_once_and_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A person at a terminal hears at once that the address is wrong."""
    ask = Absent(clock, 1_000.0)
    with pytest.raises(DependencyDown):
        patiently(ask, patience_s=0.0)
    assert ask.asked == 1
    assert capsys.readouterr().err == ""


def test_what_no_waiting_mends_is_not_waited_for(clock: Clock) -> None:
    """Only an absence is."""

    def ask() -> str:
        raise Mismatch("another version")

    with pytest.raises(Mismatch):
        patiently(ask, patience_s=60.0)
    assert clock.now_s == 100.0
