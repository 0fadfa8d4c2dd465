"""Headstart beside everything else that reads events from Kafka and writes scores, on one machine, in one run: `python bench/throughput.py`.

Each contender reads the same events from the same broker from their beginning and writes to a topic of its own; rounds of all of them are interleaved, each
in another order, and the ratio is the median of what Headstart did to what the contender did in the same round, so that a slow minute of the machine meets
both. A contender's rate is what it wrote between a fifth of the events and the last one, so neither start-up nor compilation counts; Kafka Streams, which
the JVM goes on compiling for a million events, reads its own four times before they count. What each does is in `bench/speed/`: the other contenders do a small job
(`bench/speed/job.py`: 5 numbers of state, 193 weights); Headstart does all of its own: 69 features, a network of 193 000 weights, trees, four heads,
exposures that are followed, duplicates dropped, exactly-once in effect.

The contenders' packages: `make peers`, an environment of its own. A real Apache Kafka, and with it Kafka Streams (Java): `--kafka FOLDER --kafka-streams FOLDER`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis
from arena import HERE, JVM_PASSES, JVM_TOPICS, PEERS, VISIT, Stage, cpu_s, machine, make_topics, publish_for_the_jvm, staged, train, whole
from kafka import KafkaConsumer, TopicPartition
from options import read_meter

from features.events import KINDS
from models.checkpoint import load
from streams import launches
from streams.namespace import open_store
from streams.partition import Cursor
from streams.records import Launch
from streams.replay import start_worker, stop_worker
from streams.settings import Settings, load_settings, with_changes

SCRIPTS = {
    "aiokafka": "aiokafka_through.py", "confluent": "confluent_through.py", "confluent_loop": "confluent_loop.py", "bytewax": "bytewax_batched.py",
    "faust_take": "faust_stock.py", "faust": "faust_stock.py", "quix": "quix.py",
}  # fmt: skip
WHAT = {
    "aiokafka": "no job: the same bytes out, `getmany` to `send_batch`",
    "confluent": "no job: the same bytes out, `consume` to `produce`",
    "confluent_loop": "hand-written loop with confluent-kafka, one batch after the other, MGET and MSET for each",
    "bytewax": "Bytewax, batches of 2 000, MGET and MSET for each; keeps no offsets",
    "faust_take": "Faust, `stream.take(500)`, MGET and MSET for each",
    "faust": "Faust, an event at a time, GET and SET for each",
    "quix": "Quix Streams, an event at a time, GET and SET for each",
    "kafka_streams": "Kafka Streams on the JVM, exactly_once_v2, state in memory with a changelog",
    "headstart": "one worker: everything that it does, guarantees on",
}
SLOW = {"faust": 0.15, "faust_take": 0.3, "quix": 0.15}
"""The share of the events after which a slow contender is stopped: its rate is steady long before."""
WARM = 0.2
POLL_S = 0.05


class Rate(NamedTuple):
    """What a contender did in a round, and CPU microseconds an event: of all its processes, and of Redis."""

    events_per_s: float
    cpu_us: float
    redis_us: float


def follow(written: Callable[[], int], processes: Sequence[subprocess.Popen[bytes]], stage: Stage, target: int, warm: float = WARM) -> Rate:
    """Return what was done between the share `warm` of the target and the target, or what was reached in the stage's limit from there."""
    began_s = time.monotonic()
    first: tuple[float, int, float, float] | None = None
    with closing(redis.Redis.from_url(stage.redis)) as store:
        while True:
            now_s, n = time.monotonic(), written()
            if first is None:
                if n >= warm * target:
                    first = (now_s, n, sum(cpu_s(process.pid) for process in processes), served(store)[0])
                elif now_s - began_s > 2 * stage.limit_s:
                    raise RuntimeError(f"it wrote {n} of {target} in {now_s - began_s:.0f} s")
            elif n >= target or now_s - first[0] > stage.limit_s:
                done, cpu = n - first[1], sum(cpu_s(process.pid) for process in processes) - first[2]
                return Rate(done / (now_s - first[0]), 1e6 * cpu / done, 1e6 * (served(store)[0] - first[3]) / done)
            if any(process.poll() is not None for process in processes) and n < target:
                raise RuntimeError(f"it ended after {n} of {target}")
            time.sleep(POLL_S)


def run_script(name: str, stage: Stage, tag: str) -> Rate:
    """One round of a contender that is a script in `bench/speed/`."""
    output, folder = f"out-{tag}", stage.folder / tag
    folder.mkdir()
    make_topics(stage.broker, [output], stage.partitions)
    command = [
        str(PEERS), str(HERE / "speed" / SCRIPTS[name]), "--broker", stage.broker, "--redis", stage.redis, "--inputs", ",".join(KINDS),
        "--output", output, "--name", tag, "--folder", str(folder),
    ]  # fmt: skip
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as Headstart has it
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, env=one_thread) as process:
        try:
            return follow(lambda: read_meter(folder / "written"), [process], stage, int(SLOW.get(name, 1.0) * stage.events))
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {(folder / 'log').read_text()[-600:]}") from None
        finally:
            process.kill()


def run_kafka_streams(stage: Stage, tag: str) -> Rate:
    """One round of the JVM contender, which reads browses and clicks only."""
    assert stage.kafka_streams and stage.kafka_libs
    tps = [TopicPartition(f"scores{JVM_TOPICS}", p) for p in range(stage.partitions)]
    consumer = KafkaConsumer(bootstrap_servers=stage.broker)

    def written() -> int:
        return int(sum(consumer.end_offsets(tps).values()))

    before, target = written(), JVM_PASSES * (stage.of_kind[0] + stage.of_kind[1])
    command = ["java", "-Xmx1g", "-cp", f"{stage.kafka_streams}/*:{stage.kafka_libs}/*", "Peer"]
    environment = {**os.environ, "STORE": "mem", "EOS": "1", "THREADS": "1", "SFX": JVM_TOPICS, "N": str(10 * target), "BS": stage.broker}
    log_path = stage.folder / f"{tag}.log"
    with log_path.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=stage.folder) as process:
        try:
            return follow(lambda: written() - before, [process], stage, target, 1 - 1 / JVM_PASSES)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {log_path.read_text()[-600:]}") from None
        finally:
            process.kill()
            consumer.close()


def run_headstart(stage: Stage, tag: str) -> Rate:
    """One round of Headstart, scoring and learning, in a namespace of its own."""
    with working(stage, tag) as workers, closing(redis.Redis.from_url(stage.redis)) as store:
        before = served(store)

        def worked() -> int:
            n = applied(store, stage, tag)
            return min(n, stage.events - 1) if stage.to_the_end and followed(store, stage, tag) else n

        rate = follow(worked, workers, stage, stage.events)
        _, received, sent = ((now - then) / applied(store, stage, tag) for now, then in zip(served(store), before, strict=True))
        print(f"  Redis: {received:.0f} bytes in and {sent:.0f} out an event", file=sys.stderr, flush=True)
        return rate


@contextmanager
def working(stage: Stage, tag: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The stage's workers, in a namespace of their own; a RuntimeError in the block is told with the end of their log."""
    make_topics(stage.broker, [f"{tag}-{name}" for name in ("scores", "rejected")], stage.partitions)
    make_topics(stage.broker, [f"{tag}-{name}" for name in ("outcomes", "heads", "alerts")], 1)
    log, settings = stage.folder / f"{tag}.log", settings_of(stage, tag)
    asyncio.run(launch(settings, stage.launches, stage.products))
    workers = [start_worker(settings, log) for _ in range(stage.workers)]
    try:
        yield workers
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {log.read_text()[-600:]}") from None
    finally:
        for worker in workers:
            stop_worker(worker)


def applied(store: redis.Redis, stage: Stage, tag: str) -> int:
    """Return how many events a worker has committed."""
    return sum(cursor.totals.applied for cursor in cursors(store, stage, tag))


def followed(store: redis.Redis, stage: Stage, tag: str) -> int:
    """Return how many exposures are open."""
    return sum(store.hlen(f"hs:{tag}:{{{p}}}:pending") for p in range(stage.partitions))


def cursors(store: redis.Redis, stage: Stage, tag: str) -> list[Cursor]:
    """Return what the partitions have committed, as far as they have."""
    held = (store.hget(f"hs:{tag}:{{{p}}}:cursor", "cursor") for p in range(stage.partitions))
    return [msgspec.msgpack.decode(cursor, type=Cursor) for cursor in held if cursor]


def served(store: redis.Redis) -> tuple[float, float, float]:
    """Return the CPU seconds that a Redis server has spent, and the bytes that it has received and sent."""
    told: dict[str, Any] = store.info()
    return float(told["used_cpu_user"] + told["used_cpu_sys"]), float(told["total_net_input_bytes"]), float(told["total_net_output_bytes"])


async def launch(settings: Settings, number: int, shared: int) -> None:
    """Launch the line `coffee` (a seventh of the events), a product each, or so many products that they share, in a namespace that no worker has joined yet.

    Products have the same names in all lines here: a thousand of them are half of the events.
    """
    skus = [f"sku-{i}" for i in range(shared or (number if number > 1 else 0))]
    store = open_store(settings)
    window_s = load(settings.trunk).window_s
    try:
        for i in range(number):
            new = Launch(id=f"launch-{i}", line="coffee", products=skus[i::number], window_s=window_s)
            await launches.change(store, new.id, new, must_exist=False)
    finally:
        await store.close()


def settings_of(stage: Stage, tag: str) -> Settings:
    """Return the settings of a worker that reads the stage's events in a namespace of its own; everything else as a user of one Valkey has it."""
    return with_changes(
        load_settings(None, needs=()), broker=stage.broker, redis=stage.redis, namespace=tag, trunk=stage.trunk, partitions=stage.partitions,
        outcome_partitions=1, topic_prefix=f"{tag}-", topic_names={kind: kind for kind in KINDS}, session_timeout_s=6, log_level="WARNING",
        redis_msetex=True,
    )  # fmt: skip


def report(found: Mapping[str, Mapping[int, Rate]]) -> tuple[str, dict[str, Any]]:
    """Return a Markdown table and the results, from what each contender did in which round."""
    ours = found.get("headstart", {})
    lines = ["| contender | what it does | events/s | CPU µs an event | of Redis | headstart is |", "| --- | --- | --: | --: | --: | --: |"]
    results: dict[str, Any] = {}
    medians = {name: Rate(*(statistics.median(of) for of in zip(*rounds.values(), strict=True))) for name, rounds in found.items()}
    for name, rate in sorted(medians.items(), key=lambda item: -item[1].events_per_s):
        ratios = [ours[number].events_per_s / there.events_per_s for number, there in found[name].items() if number in ours]
        ratio = statistics.median(ratios) if ratios else None
        results[name] = {
            "events_per_s": round(rate.events_per_s), "cpu_us_per_event": round(rate.cpu_us, 1), "redis_us_per_event": round(rate.redis_us, 1),
            "rounds": [round(there.events_per_s) for there in found[name].values()],
            "headstart_ratio": ratio and round(ratio, 3), "headstart_ratios": [round(there, 3) for there in ratios],
        }  # fmt: skip
        told = f"{ratio:.2f} ×" if ratio and name != "headstart" else ""
        lines.append(f"| {name} | {WHAT[name]} | {rate.events_per_s:,.0f} | {rate.cpu_us:.1f} | {rate.redis_us:.1f} | {told} |")
    return "\n".join(lines), results


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunk", type=Path, default=HERE.parent / "var" / "bench" / "throughput-trunk", help="trained in passing if it is not there")
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument(
        "--visit", type=int, default=VISIT, help="events of a visit, in the mean; real logs have 4 to 6, three of them in a line (1: the worst case)"
    )
    parser.add_argument(
        "--age",
        type=float,
        default=0.0,
        help="of the events, in hours: if above the window, all delay bins close too, and a round of Headstart lasts until they have",
    )
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--launches", type=int, default=1, help="of a product each; 1: of a whole line")
    parser.add_argument("--products", type=int, default=0, help="that the launches share, so that one launch has the events of many (default: see --launches)")
    parser.add_argument("--workers", type=int, default=1, help="of Headstart; the contenders have one process each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a round may take once it is warm")
    parser.add_argument("--only", action="append", help="a contender; may be given again (default: all that can run here)")
    parser.add_argument("--kafka", type=whole, help="the folder of an Apache Kafka (default: the embedded broker)")
    parser.add_argument("--kafka-streams", type=whole, help="the folder with the jars of the Kafka Streams contender; needs --kafka")
    parser.add_argument("--json", type=Path, help="where the results go (default: bench/results.json, and nowhere with --only)")
    given = parser.parse_args()
    if 0 < given.products < given.launches:
        parser.error("--products: at least one for each of the --launches")
    given.json = given.json or (None if given.only else HERE / "results.json")
    return given


def main() -> None:
    """Run all rounds, print a table, write the results."""
    given = parsed()
    runners: dict[str, Callable[[Stage, str], Rate]] = {"headstart": run_headstart}
    if PEERS.exists():
        runners |= {name: (lambda stage, tag, name=name: run_script(name, stage, tag)) for name in SCRIPTS}  # type: ignore[misc]
    else:
        print(f"no {PEERS}: only Headstart runs; `make peers` installs the others", file=sys.stderr)
    if given.kafka_streams and given.kafka:
        runners["kafka_streams"] = run_kafka_streams
    chosen = [name for name in runners if not given.only or name in given.only]
    if not (given.trunk / "manifest.json").exists():
        train(given.trunk)
    found: dict[str, dict[int, Rate]] = {}
    with ExitStack() as stack:
        stage = replace(staged(stack, given, given.events), products=given.products, to_the_end=3600 * given.age > load(given.trunk).window_s)
        if "kafka_streams" in chosen:
            asyncio.run(publish_for_the_jvm(stage))
        for number in range(given.rounds):
            for name in random.Random(number).sample(chosen, len(chosen)):
                os.sync()  # what the one before has written
                try:
                    rate = runners[name](stage, f"{name.replace('_', '-')}-{number}")
                except RuntimeError as error:
                    print(f"{name}, round {number + 1}: {error}", file=sys.stderr)
                    continue
                found.setdefault(name, {})[number] = rate
                print(f"round {number + 1}, {name}: {rate.events_per_s:,.0f} events/s, {rate.cpu_us:.1f} µs of CPU an event", file=sys.stderr, flush=True)
                redis.Redis.from_url(stage.redis).flushall()
    table, results = report(found)
    print(table)
    if given.json:
        write(given, results)


def write(given: argparse.Namespace, results: dict[str, Any]) -> None:
    """Keep the results, with what they were measured on."""
    command = " ".join(["python", "bench/throughput.py", *("…" if "/" in word else word for word in sys.argv[1:])])
    told = {
        "contenders": results, "broker": "Apache Kafka" if given.kafka else "embedded broker", "machine": machine(), "events": given.events,
        "rounds": given.rounds, "visit": given.visit, "partitions": given.partitions, "workers": given.workers, "command": command,
    }  # fmt: skip
    given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
