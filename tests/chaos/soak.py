"""A long run under load with a random fault now and then: does anything grow, and does the ledger balance in the end?

    python -m tests.chaos.soak --minutes 30 --rate 100 [--seed N] [--folder var/soak]

Writes soak.png (resident memory and descriptors of each worker, Redis' memory, the lag) and soak.json into the folder, and exits with 1 if the ledger does
not balance.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tests.chaos import faults
from tests.chaos.outcomes import Sample
from tests.chaos.proxy import Proxy
from tests.chaos.stage import REST_S, Stage
from tests.integration.worlds import make_live_trunk
from tests.kafka_server import KafkaCluster, kafka_home

mpl.use("Agg")
FAULTS = (
    faults.worker_killed, faults.worker_frozen, faults.rolling_restart, faults.broker_killed, faults.redis_killed, faults.redis_paused, faults.redis_put_back,
    faults.redis_full, faults.broker_cut_off_from_one, faults.redis_cut_off_from_one, faults.clock_jumped, faults.out_of_order_and_twice, faults.poisoned,
)  # fmt: skip
QUIET_S = (20.0, 60.0)  # between two faults
MINUTE_S = 60.0


def main() -> int:
    """Run, plot, and account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    parser.add_argument("--folder", type=Path, default=Path("var/soak"))
    options = parser.parse_args()
    home, missing = kafka_home()
    if missing:
        print(f"soak: {missing}", file=sys.stderr)  # noqa: T201
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    trunk = make_live_trunk(folder / "trunk")
    run = folder / f"run-{time.time_ns()}"
    print(f"soak: --seed {options.seed}, {options.minutes:g} minutes at {options.rate:g} events/s", flush=True)  # noqa: T201
    with Proxy() as entrance, KafkaCluster(home, run / "kafka", nodes=1, advertised_ports=[entrance.port]) as cluster:
        entrance.target = cluster.nodes[1].entrance_port
        with Stage(cluster, [entrance], trunk, run, seed=options.seed, rate=options.rate) as stage:
            stage.ready()
            happened = disturb(stage, options.minutes * MINUTE_S, random.Random(options.seed))
            stage.traffic.pause()
            stage.wait(stage.at_rest, "all is worked off", 2 * REST_S)
            account = stage.account()
            samples = stage.samples
    plot(samples, happened, folder / "soak.png")
    figures = {"seed": options.seed, "minutes": options.minutes, "rate": options.rate, "faults": happened, **summary(samples), "ledger": account.as_json()}
    (folder / "soak.json").write_text(json.dumps({**figures, "samples": [asdict(sample) for sample in samples]}))
    print(json.dumps({**figures, "faults": len(happened)}, indent=1))  # noqa: T201
    return 0 if account.balances else 1


def disturb(stage: Stage, for_s: float, draw: random.Random) -> list[tuple[float, float, str]]:
    """Let faults happen until the time is over; returns (begin, end, name) of each, in seconds since the start."""
    began_s = time.monotonic()
    happened = []
    while time.monotonic() - began_s < for_s:
        time.sleep(min(draw.uniform(*QUIET_S), max(0.0, began_s + for_s - time.monotonic())))
        if time.monotonic() - began_s >= for_s - QUIET_S[1]:
            time.sleep(max(0.0, began_s + for_s - time.monotonic()))  # the end is quiet
            break
        fault = draw.choice(FAULTS)
        start_s = stage.now_s()
        fault(stage, draw)
        happened.append((start_s, stage.now_s(), fault.__name__))
        print(f"{start_s:7.0f} s  {fault.__name__}", flush=True)  # noqa: T201
    return happened


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Return first (after two minutes) and last values, and the highest."""
    later = [sample for sample in samples if sample.at_s > 2 * MINUTE_S] or samples
    tail = later[-min(60, len(later)) :]
    head = later[: min(60, len(later))]

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2] if values else 0.0

    def of(part: list[Sample], name: str) -> float:
        return middle([float(sum(getattr(sample, name).values())) for sample in part if getattr(sample, name)])

    return {
        "rss_mb_begin": of(head, "rss_bytes") / 1e6, "rss_mb_end": of(tail, "rss_bytes") / 1e6,
        "rss_mb_most_of_one": max((rss for sample in later for rss in sample.rss_bytes.values()), default=0) / 1e6,
        "descriptors_begin": of(head, "descriptors"), "descriptors_end": of(tail, "descriptors"),
        "redis_mb_begin": middle([sample.redis_bytes for sample in head if sample.redis_bytes]) / 1e6,
        "redis_mb_end": middle([sample.redis_bytes for sample in tail if sample.redis_bytes]) / 1e6,
        "lag_end": middle([sample.lag for sample in tail]), "lag_most": max((sample.lag for sample in later), default=0),
    }  # fmt: skip


def plot(samples: list[Sample], happened: list[tuple[float, float, str]], file: Path) -> None:
    """Draw what was seen, with the faults as grey bars."""
    from matplotlib import pyplot as plt

    minutes = [sample.at_s / MINUTE_S for sample in samples]
    figure, axes = plt.subplots(4, 1, figsize=(9, 8), sharex=True, layout="constrained")
    seats = sorted({seat for sample in samples for seat in sample.rss_bytes})
    for seat in seats:
        axes[0].plot(minutes, [sample.rss_bytes.get(seat, float("nan")) / 1e6 for sample in samples], label=f"worker {seat}", lw=1)
        axes[1].plot(minutes, [sample.descriptors.get(seat, float("nan")) for sample in samples], lw=1)
    axes[2].plot(minutes, [sample.redis_bytes / 1e6 if sample.redis_bytes else float("nan") for sample in samples], lw=1, color="tab:red")
    axes[3].plot(minutes, [sample.lag if sample.read else float("nan") for sample in samples], lw=1, color="tab:purple")
    for ax, label in zip(axes, ("RSS, MB", "descriptors", "Redis, MB", "lag, records"), strict=True):
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
        for begin_s, end_s, _ in happened:
            ax.axvspan(begin_s / MINUTE_S, end_s / MINUTE_S, color="0.85", lw=0)
    axes[0].legend(loc="lower right", ncols=4, fontsize=8)
    axes[-1].set_xlabel("minutes (grey: a fault)")
    figure.savefig(file, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
