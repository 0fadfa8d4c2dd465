"""A command that is told to stop is interrupted as by Ctrl-C, and says by its exit code who ended it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streams import cli
from streams.signals import ENDING, as_interrupts


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As a person's shell starts a command, whatever started the tests; what their process does at these signals is put back."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING} | {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN], ids=["by a person", "in the background"])
def test_the_first_one_interrupts_and_a_second_one_ends(number: signal.Signals, interrupt: signal.Handlers) -> None:
    """Also where a script's shell has Ctrl-C ignored; afterwards the signals do what they did."""
    signal.signal(signal.SIGINT, interrupt)
    with as_interrupts() as told:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert told == [number]
        assert {signal.getsignal(other) for other in ENDING} == {signal.SIG_DFL}
    assert {signal.getsignal(other) for other in ENDING} == {signal.SIG_DFL}


def test_what_is_ignored_stays_ignored() -> None:
    """As under nohup; and in another thread nothing is changed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with as_interrupts() as told:
        signal.raise_signal(signal.SIGHUP)
        assert told == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def elsewhere() -> bool:
        with as_interrupts():
            return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result()


def test_a_commands_own_handler_is_called() -> None:
    """What a worker, `up` and the dashboard do at SIGTERM is theirs; at SIGHUP they do what they do at Ctrl-C."""
    heard: list[int] = []
    with as_interrupts() as told:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: heard.append(number))
        signal.raise_signal(signal.SIGTERM)
        assert (heard, told) == ([signal.SIGTERM], [])
        signal.raise_signal(signal.SIGHUP)
        assert (heard, told) == ([signal.SIGTERM, signal.SIGINT], [signal.SIGHUP])


def test_tasks_are_brought_to_their_end() -> None:
    """In asyncio the main task is cancelled, and what it does in the end may wait."""
    ended: list[str] = []

    async def go() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)
            ended.append("well")

    with as_interrupts() as told, pytest.raises(KeyboardInterrupt):
        asyncio.run(go())
    assert (ended, told) == (["well"], [signal.SIGTERM])


def test_a_child_that_was_forked_off_ends_by_the_signal() -> None:
    """It has its parent's handlers, and none of its parent's work to bring to an end."""
    code = (
        "import os, signal\n"
        "from streams.signals import as_interrupts\n"
        "with as_interrupts() as told:\n"
        "    pid = os.fork()\n"
        "    if not pid: signal.raise_signal(signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("-15 []\n", "")


@pytest.mark.parametrize(
    ("number", "then", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, KeyboardInterrupt, 143),
        (signal.SIGHUP, KeyboardInterrupt, 129),
        (signal.SIGTERM, ZeroDivisionError, 143),  # a bug on the way out
        (signal.SIGTERM, None, 143),  # somebody swallowed it
    ],
)
def test_the_exit_code_says_which(
    number: signal.Signals, then: type[BaseException] | None, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever becomes of the interruption on its way; nothing is printed."""

    def load(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if then is not None:
                raise then from None
        raise SystemExit

    monkeypatch.setattr("streams.commands.config.load_settings", load)
    with pytest.raises(SystemExit) as ended:
        cli.main(["config"])
    assert (ended.value.code, capsys.readouterr().err) == (code, "")
