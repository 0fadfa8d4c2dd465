"""`--device cuda`: without a GPU a line that says so; with one, a trunk as good as the processor's, the same bits each time, and ranks that share it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from features.vector import SCHEMA_HASH
from models.checkpoint import load
from streams.importing import write_log
from streams.shop import Shop, simulate

pytestmark = pytest.mark.xdist_group("training_on_a_gpu")

WINDOW_S = 21_600
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of a shop of three lines."""
    path = tmp_path_factory.mktemp("gpu") / "log.parquet"
    write_log(simulate(Shop(users=150, lines=3, days=3.0, launch_day=None, visits_per_day=1.4, conversion=0.2, window_s=WINDOW_S, seed=5)).log, path)
    return path


def pretrained(log: Path, folder: Path, device: str, *options: str, ranks: int = 1, code: int = 0) -> str:
    """Run `headstart pretrain` on a device, in so many processes; returns what it said on standard error."""
    command = ["-m", "streams.cli", "pretrain", str(log), "--window", str(WINDOW_S), "--trunk", str(folder), "--device", device, *options]
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*start, *command], capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(log: Path, tmp_path: Path) -> None:
    """One readable line, before any work, and no trunk."""
    said = pretrained(log, tmp_path / "trunk", "cuda", code=1)
    assert len(said.splitlines()) == 1, said
    assert "there is no GPU to train on" in said
    assert not (tmp_path / "trunk").exists()


@needs_gpu
def test_a_gpu_trains_as_well(log: Path, tmp_path: Path) -> None:
    """The trunk of a GPU is as good as the processor's, and the next one has its bits; what does not rest on the trunk is the processor's to the bit."""
    for name, device in (("cpu", "cpu"), ("gpu", "cuda"), ("again", "cuda")):
        pretrained(log, tmp_path / name, device)
    cpu, gpu, again = (load(tmp_path / name, schema_hash=SCHEMA_HASH) for name in ("cpu", "gpu", "again"))
    assert {name: array.tobytes() for name, array in gpu.trunk.as_dict().items()} == {name: array.tobytes() for name, array in again.trunk.as_dict().items()}
    assert gpu.trunk.w1.tobytes() != cpu.trunk.w1.tobytes(), "it was not trained on the GPU"
    assert abs(gpu.metrics["validation_auc"] - cpu.metrics["validation_auc"]) < 0.05
    for name in ("raw_final", "trees_delay"):
        assert gpu.heads[name].p.tobytes() == cpu.heads[name].p.tobytes()


@needs_gpu
def test_a_gpu_goes_on_from_a_trunk(log: Path, tmp_path: Path) -> None:
    """`--from`: refreshed on a GPU, a trunk has the same bits each time, keeps its scaler and its edges, and is no worse than when refreshed on the processor."""
    pretrained(log, tmp_path / "parent", "cpu")
    for name, device in (("cpu", "cpu"), ("gpu", "cuda"), ("again", "cuda")):
        pretrained(log, tmp_path / name, device, "--from", str(tmp_path / "parent"), "--seed", "1")
    parent, cpu, gpu, again = (load(tmp_path / name, schema_hash=SCHEMA_HASH) for name in ("parent", "cpu", "gpu", "again"))
    assert {name: array.tobytes() for name, array in gpu.trunk.as_dict().items()} == {name: array.tobytes() for name, array in again.trunk.as_dict().items()}
    for name in ("mean", "std", "edges", "starts"):
        assert gpu.trunk.as_dict()[name].tobytes() == parent.trunk.as_dict()[name].tobytes(), name
    assert abs(gpu.metrics["validation_auc"] - cpu.metrics["validation_auc"]) < 0.05


@needs_gpu
def test_ranks_share_a_gpu(log: Path, tmp_path: Path) -> None:
    """Two ranks and one GPU: they train one trunk, the same bits each time."""
    for name in ("together", "again"):
        pretrained(log, tmp_path / name, "cuda", ranks=2)
    together, again = (load(tmp_path / name, schema_hash=SCHEMA_HASH) for name in ("together", "again"))
    assert {name: array.tobytes() for name, array in together.trunk.as_dict().items()} == {
        name: array.tobytes() for name, array in again.trunk.as_dict().items()
    }
