"""How fast a trunk is trained, and in how much memory: `python bench/training.py [--copies 1,5] [--device cuda] [--json FILE]`. SYNTHETIC data.

A simulated shop's two weeks (some 36 000 events) follow each other as often as is asked for, the same shoppers each time, and `headstart pretrain` is run on
that: on the log as a whole, part by part, and part by part in two processes that torchrun starts. Told are the time, the most memory of a process, and the
events a second that went through the pipeline: once for the rows and once more for each line, which is launched in pretence. Then the trunk alone, on rows at
hand: rows a second of gradient descent, in one process and in two. With `--device cuda` all of it is done again with the trunk's steps on a GPU (the log as a
whole, in one process), and the trunk alone with larger batches too.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from arena import HERE, machine

sys.path.insert(0, str(HERE.parent / "tests" / "unit"))

from synthetic_rows import make_rows

from features.vector import WIDTH
from models.pretrain import fit_scaler
from models.ranks import device_of, joined
from models.trunk import TrunkSettings, train_trunk
from streams.shop import Shop, simulate

TRUNK_ROWS, STEPS = 100_000, 400
SHOP = Shop(users=800, lines=5, days=14.0, launch_day=None, seed=3)
LOOK_S = 0.1


def lay_out(folder: Path, copies: int) -> int:
    """Write the log in as many files as copies; returns how many events it has."""
    log = simulate(SHOP).log
    span_ms = round(SHOP.days * 86_400_000)
    for copy in range(copies):
        again = log.set_column(log.column_names.index("ts"), "ts", pc.add(log["ts"], copy * span_ms))
        ids = pc.binary_join_element_wise(pa.scalar(str(copy)), log["event_id"], "-")
        pq.write_table(again.set_column(log.column_names.index("event_id"), "event_id", ids), folder / f"{copy:04}.parquet", compression="zstd")
    return copies * int(log.num_rows)


def most_memory_mb(root: int) -> float:
    """Return the most resident memory that one of a process and its children has had so far."""
    most, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            continue
        most = max([most, *(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM"))])
    return most


def pretrain(log: Path, trunk: Path, ranks: int, *options: str) -> tuple[float, float]:
    """Return the seconds and MB that `headstart pretrain` took."""
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    began_s, most = time.perf_counter(), 0.0
    with subprocess.Popen([*start, "-m", "streams.cli", "pretrain", str(log), "--trunk", str(trunk), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # fmt: skip
        while process.poll() is None:
            most = max(most, most_memory_mb(process.pid))
            time.sleep(LOOK_S)
    if process.returncode:
        raise RuntimeError(f"pretrain of {log} ended with {process.returncode}")
    return time.perf_counter() - began_s, most


def train_alone(device: str, batch: int) -> None:
    """Train a trunk on rows at hand, as one of the ranks that torchrun has started or alone; rank 0 prints rows a second."""
    rows = make_rows(TRUNK_ROWS, WIDTH)
    mean, std = fit_scaler(rows.x)
    with joined(int(os.environ.get("WORLD_SIZE", "1")), device_of(device, int(os.environ.get("LOCAL_RANK", "0")))) as ranks:
        took = []
        for steps in (STEPS // 4, STEPS // 4, STEPS):  # once to warm up; then the difference is gradient descent alone
            began_s = time.perf_counter()
            train_trunk(rows, mean, std, seed=0, settings=TrunkSettings(batch=batch, most_steps=steps, patience=10**9, check_steps=10**9), ranks=ranks)
            took.append(time.perf_counter() - began_s)
        if ranks.rank == 0:
            print(ranks.size * batch * (STEPS - STEPS // 4) / (took[2] - took[1]))


def trunk_rows_per_s(ranks: int, device: str, batch: int) -> float:
    """Return what `train_alone` prints in so many processes, the median of three."""
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*start, str(Path(__file__).resolve()), "--alone", "--device", device, "--batch", str(batch)]
    return float(np.median([float(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout) for _ in range(3)]))


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", default="1,5", help="how often the two weeks follow each other, separated by commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: a GPU beside the processor")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=TrunkSettings().batch, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        train_alone(given.device, given.batch)
        return
    found: list[dict[str, Any]] = []
    print(
        "| events | log on disk MB | read | processes | s | events/s through the pipeline | most memory of one, MB |\n| --: | --: | --- | --: | --: | --: | --: |"
    )
    for copies in (int(number) for number in given.copies.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            parts, whole = Path(scratch) / "parts", Path(scratch) / "whole.parquet"
            parts.mkdir()
            events = lay_out(parts, copies)
            pq.write_table(pq.read_table(parts), whole, compression="zstd")
            ways = [(whole, "as a whole", 1, "cpu"), (parts, "by parts", 1, "cpu"), (parts, "by parts", 2, "cpu")]
            if given.device != "cpu":
                ways.append((whole, f"as a whole, {given.device}", 1, given.device))
            for log, how, ranks, device in ways:
                seconds, memory = pretrain(log, Path(scratch) / "trunk", ranks, "--device", device)
                rate = (1 + SHOP.lines) * events / seconds
                found.append({"events": events, "read": how, "processes": ranks, "seconds": seconds, "events_per_s": rate, "memory_mb": memory})
                print(f"| {events:,} | {whole.stat().st_size / 1e6:.0f} | {how} | {ranks} | {seconds:.0f} | {rate:,.0f} | {memory:.0f} |", flush=True)
    usual = TrunkSettings().batch
    alone = [(1, "cpu", usual), (2, "cpu", usual)]
    if given.device != "cpu":
        alone += [(1, device, batch) for batch in (usual, 16 * usual) for device in ("cpu", given.device) if (device, batch) != ("cpu", usual)]
    print("\n| the trunk alone on | processes | rows a step of each | rows/s |\n| --- | --: | --: | --: |")
    rates = []
    for ranks, device, batch in alone:
        rates.append({"processes": ranks, "device": device, "batch": batch, "rows_per_s": trunk_rows_per_s(ranks, device, batch)})
        print(f"| {device} | {ranks} | {batch} | {rates[-1]['rows_per_s']:,.0f} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"runs": found, "trunk_alone": rates, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
