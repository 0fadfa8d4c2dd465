"""Many events at full speed with faults on the way, and the account of every one of them.

    python -m tests.chaos.millions --events 10000000 [--minutes 30] [--seed N] [--workers 3] [--folder var/millions]

Three workers, twelve partitions, a real Kafka and a Redis with append-only file on this machine, without a network of ours between them. The load stands still
while too much waits. The ledger runs as a command of its own, so that its memory is seen. Exits with 1 if it does not balance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from streams.settings import as_environment
from tests.chaos import faults
from tests.chaos.soak import plot, summary
from tests.chaos.stage import REST_S, Stage
from tests.integration.worlds import make_live_trunk
from tests.kafka_server import KafkaCluster, kafka_home

FAULTS = (
    faults.worker_killed, faults.worker_frozen, faults.learner_killed, faults.rolling_restart, faults.broker_killed, faults.redis_killed,
    faults.redis_put_back, faults.redis_paused, faults.out_of_order_and_twice, faults.poisoned,
)  # fmt: skip
MOST_LAG = 40_000
RATE = 30_000.0
QUIET_S = (30.0, 90.0)


def main() -> int:
    """Publish, disturb, account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="publish no longer than this, however many events it were")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("var/millions"))
    options = parser.parse_args()
    home, missing = kafka_home()
    if missing:
        print(f"millions: {missing}", file=sys.stderr)  # noqa: T201
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    trunk = make_live_trunk(folder / "trunk")
    run = folder / f"run-{time.time_ns()}"
    draw = random.Random(options.seed)
    print(f"millions: --seed {options.seed}, {options.events} events, {options.workers} workers", flush=True)  # noqa: T201
    with (
        KafkaCluster(home, run / "kafka", nodes=1, light=False) as cluster,
        Stage(cluster, [], trunk, run, seed=options.seed, rate=RATE, wires=False, most_lag=MOST_LAG, redis_config={"appendfsync": "everysec"}, durability="memory",
              dependency_timeout_s=60, bulk=True) as stage,
    ):  # fmt: skip
        stage.staff(options.workers)
        stage.ready()
        began_s, happened = time.monotonic(), []
        next_s = draw.uniform(*QUIET_S)
        told_s = 0.0
        while stage.traffic.confirmed < options.events and time.monotonic() - began_s < 60 * options.minutes:
            assert stage.traffic.error is None, stage.traffic.error
            time.sleep(1)
            passed_s = time.monotonic() - began_s
            if passed_s - told_s > 30 and stage.samples:
                told_s, sample = passed_s, stage.samples[-1]
                rss = ", ".join(f"{rss / 1e6:.0f}" for rss in sample.rss_bytes.values())
                print(f"{passed_s:7.0f} s  {sample.read:,} read, {sample.lag:,} wait, workers {rss} MB, Redis {sample.redis_bytes / 1e6:.0f} MB", flush=True)  # noqa: T201
            if passed_s > next_s:
                fault = draw.choice(FAULTS)
                start_s = stage.now_s()
                print(f"{passed_s:7.0f} s  {fault.__name__}", flush=True)  # noqa: T201
                fault(stage, draw)
                happened.append((start_s, stage.now_s(), fault.__name__))
                next_s = time.monotonic() - began_s + draw.uniform(*QUIET_S)
        stage.traffic.pause()
        published_s = time.monotonic() - began_s
        stage.wait(stage.at_rest, "all is worked off", 10 * REST_S)
        worked_s = time.monotonic() - began_s
        plot(stage.samples, happened, folder / "millions.png")
        stage.staff(0)
        code, account, most_bytes, took_s = ledger(stage, folder / "ledger.json")
        figures = {
            "seed": options.seed, "published_s": published_s, "worked_s": worked_s, "events_per_s": stage.traffic.confirmed / worked_s,
            "faults": [name for _, _, name in happened], **summary(stage.samples), "ledger_s": took_s, "ledger_rss_mb": most_bytes / 1e6, "ledger": account,
        }  # fmt: skip
    (folder / "millions.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))  # noqa: T201
    return code


def ledger(stage: Stage, file: Path) -> tuple[int, object, int, float]:
    """Run `headstart ledger`; returns its exit code, its account, the most memory that it had, in bytes, and how long it took."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "ledger", "--json", str(file)], env={**os.environ, **as_environment(stage.settings)}, stdout=subprocess.DEVNULL
    )
    most = 0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            most = max([most, *(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        except OSError:
            break
        time.sleep(0.5)
    return process.wait(), json.loads(file.read_text()), most, time.monotonic() - began_s


if __name__ == "__main__":
    sys.exit(main())
