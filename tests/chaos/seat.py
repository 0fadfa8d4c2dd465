"""A worker under supervision, as the chaos suite has them."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from subprocess import Popen

from streams.faults import VARIABLE
from streams.replay import start_worker
from streams.settings import Settings
from tests.chaos.proxy import Proxy

_WORKS = re.compile(r"works partitions \[([^\]]*)\], learns outcomes \[([^\]]*)\]")


class Seat:
    """One worker under supervision: started again a second after it ends, as long as it is wanted. It reaches Redis by a wire of its own."""

    def __init__(self, number: int, settings: Settings, folder: Path, wire: Proxy) -> None:
        self.number, self.wire = number, wire
        self.settings = settings
        self.log = folder / f"worker-{number}.log"
        self.clock = folder / f"clock-{number}"
        self.process: Popen[bytes] | None = None
        self.wanted = False
        self._starting = threading.Lock()
        self.ends: list[int] = []
        self.starts: list[float] = []  # seconds that each start took, until it had partitions
        self._ended_s = self._started_s = 0.0
        self._log_from = 0

    @property
    def pid(self) -> int:
        """The process, 0 if there is none."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else 0

    def want(self, wanted: bool) -> None:
        """Say whether it is to run; once this has returned, none that is not wanted is started any more."""
        with self._starting:
            self.wanted = wanted

    def look(self) -> None:
        """Do what a supervisor does: note how it ended, and start it again."""
        if self._started_s and self.works()[0]:
            self.starts.append(time.monotonic() - self._started_s)
            self._started_s = 0.0
        if self.process is not None and self.process.poll() is not None:
            self.ends.append(self.process.returncode)
            self.process, self._ended_s = None, time.monotonic()
        if self.wanted and self.process is None and time.monotonic() - self._ended_s > 1:
            self._started_s = time.monotonic()
            self._log_from = self.log.stat().st_size if self.log.exists() else 0
            with self._starting:
                if self.wanted:
                    self.process = start_worker(self.settings, self.log, {VARIABLE: f"clock:{self.clock}{',aside:1' * (self.number % 2)}"})

    def works(self) -> tuple[set[int], set[int]]:
        """Return the partitions and outcome partitions that this process was given last, as it says."""
        found = _WORKS.findall(self.log.read_bytes()[self._log_from :].decode(errors="replace")) if self.log.exists() else []
        if not found or not self.pid:
            return set(), set()
        partitions, outcomes = ({int(n) for n in text.split(",") if n.strip()} for text in found[-1])
        return partitions, outcomes
