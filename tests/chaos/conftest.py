"""The seed of a run, and stages that are shared as long as they balance.

CHAOS_SEED is the seed (drawn, and told, if it is not given); CHAOS_FAULTS names the faults, separated by commas (all, if none is named); CHAOS_RATE is the
load in events a second; CHAOS_OUT is the file to which outcomes are appended.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.outcomes import Outcome, out, said
from tests.chaos.proxy import Proxy
from tests.chaos.stage import Stage
from tests.integration.worlds import make_live_trunk
from tests.kafka_server import KafkaCluster, kafka_home

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().getrandbits(31))
RATE = float(os.environ.get("CHAOS_RATE") or 100)
OUTCOMES: list[Outcome] = []


def pytest_report_header() -> str:
    """Tell the seed. Who ends a run with SIGTERM gets it ended well, with no process left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    return f"chaos: CHAOS_SEED={SEED} CHAOS_RATE={RATE:g}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write a failure down at once, beside the outcomes: a run is long."""
    if report.failed:
        file = out().with_suffix(".failures")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as told:
            told.write(f"CHAOS_SEED={SEED} {report.nodeid} ({report.when})\n{report.longreprtext}\n\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what became of each fault, and how to run it again."""
    if OUTCOMES:
        terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
        for line in said(OUTCOMES):
            terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """kafka-python leaves sockets to the garbage collector, which may come in any later test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:Exception ignored in. <function BaseEventLoop:pytest.PytestUnraisableExceptionWarning"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put the faults into an order that the seed draws, and leave out those that were not asked for."""
    for mark in metafunc.definition.iter_markers("faults"):
        wanted = [name for name in os.environ.get("CHAOS_FAULTS", "").split(",") if name]
        faults = [fault for fault in mark.args[0] if not wanted or fault.__name__ in wanted]
        random.Random(SEED).shuffle(faults)
        metafunc.parametrize("fault", faults, ids=[fault.__name__ for fault in faults])


class Stages:
    """The stages of a run, by the number of brokers; one on which something did not balance is left, and another one made."""

    def __init__(self, trunk: Path, folder: Path) -> None:
        self._trunk, self._folder = trunk, folder
        self._stacks: dict[int, ExitStack] = {}
        self._stages: dict[int, Stage] = {}
        self._made = 0

    def get(self, brokers: int) -> Stage:
        """Return the stage with so many brokers; the other one is closed, since a machine has only so much to give."""
        for number in list(self._stages):
            if number != brokers or self._stages[number].tainted:
                self.close(number)
        if brokers not in self._stages:
            home, missing = kafka_home()
            if missing:
                pytest.skip(missing)
            self._made += 1
            folder = self._folder / str(self._made)
            stack = self._stacks[brokers] = ExitStack()
            entrances = [stack.enter_context(Proxy()) for _ in range(brokers)]
            cluster = stack.enter_context(KafkaCluster(home, folder / "kafka", nodes=brokers, advertised_ports=[proxy.port for proxy in entrances]))
            for proxy, node in zip(entrances, cluster.nodes.values(), strict=True):
                proxy.target = node.entrance_port
            replica = brokers > 1
            stage = Stage(cluster, entrances, self._trunk, folder, seed=SEED, rate=RATE, durability="replica" if replica else "disk", replica=replica)
            self._stages[brokers] = stack.enter_context(stage)
            stage.ready()
        return self._stages[brokers]

    @contextmanager
    def apart(self, **changes: Any) -> Iterator[Stage]:
        """Yield a stage of one's own, with one broker; the shared ones are closed."""
        for number in list(self._stages):
            self.close(number)
        home, missing = kafka_home()
        if missing:
            pytest.skip(missing)
        self._made += 1
        folder = self._folder / str(self._made)
        with (
            Proxy() as entrance,
            KafkaCluster(home, folder / "kafka", nodes=1, advertised_ports=[entrance.port]) as cluster,
        ):
            entrance.target = cluster.nodes[1].entrance_port
            with Stage(cluster, [entrance], self._trunk, folder, seed=SEED, rate=RATE, **changes) as stage:
                stage.ready()
                yield stage

    def close(self, number: int) -> None:
        """End a stage."""
        self._stages.pop(number, None)
        self._stacks.pop(number).close()


@pytest.fixture(scope="session")
def quick_trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk whose attribution window is four seconds."""
    return make_live_trunk(tmp_path_factory.mktemp("trunk"))


@pytest.fixture(scope="session")
def stages(quick_trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """The stages of this run."""
    made = Stages(quick_trunk, tmp_path_factory.mktemp("chaos"))
    yield made
    for number in list(made._stacks):
        made.close(number)
