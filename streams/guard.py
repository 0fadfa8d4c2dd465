"""Run one server, or worker, as a child that cannot outlive the program which asked for it. Started as a script by streams.embedded and streams.replay.

    python -I -S guard.py [--remove DIR] [--grace SECONDS] COMMAND [ARGUMENT...]

Prints the child's process id as one line, then waits. When its standard input ends, its parent dies (SIGKILL included), or it is told
to stop, it sends the child SIGTERM and, after a grace, SIGKILL. It also removes DIR unless the parent has said, by any byte on standard
input, that it goes on without the child: a parent that dies says nothing. It exits with the child's code (128 + n for signal n). On Linux
the kernel kills the child should the guard itself be killed.

A process of its own, because PR_SET_PDEATHSIG alone fires at the end of the *thread* that forked, and exists only on Linux.
Standard library only, and nothing of ours: it must start in milliseconds.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time

GRACE_S = 3.0
PR_SET_PDEATHSIG = 1


def _tie_to_parent(guard_pid: int) -> None:
    """In the child, on Linux: be killed when the guard dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard_pid:
            os._exit(1)


def _spawn(command: list[str]) -> int:
    guard_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _tie_to_parent(guard_pid)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _ended(pid: int) -> int | None:
    """The child's exit code if it has ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        return None
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def main(arguments: list[str]) -> int:
    """Guard one command; see the module's docstring."""
    remove, grace_s = None, GRACE_S
    if arguments[0] == "--remove":
        remove, arguments = arguments[1], arguments[2:]
    if arguments[0] == "--grace":
        grace_s, arguments = float(arguments[1]), arguments[2:]
    parent = os.getppid()
    told: list[int] = []
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: told.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pid = _spawn(arguments)
    os.write(1, f"{pid}\n".encode())

    orphaned = kept = False
    while not told and not orphaned:
        code = _ended(pid)
        if code is not None:
            return code
        # The second timeout is for a parent whose end of the pipe was inherited by another process.
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        if woken in ready:
            os.read(woken, 512)
        if 0 in ready:
            if not os.read(0, 512):
                orphaned = not kept
                break
            kept = True
        orphaned = os.getppid() != parent

    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (code := _ended(pid)) is None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    if remove and (orphaned or os.getppid() != parent):
        shutil.rmtree(remove, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
