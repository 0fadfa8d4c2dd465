"""Processes that train together, started by torchrun: one trunk, that of their common batches; all of the lines launched in pretence; every run the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from features.vector import SCHEMA_HASH
from models.checkpoint import load
from streams.importing import write_log
from streams.shop import Shop, simulate

pytestmark = pytest.mark.xdist_group("training_together")

WINDOW_S = 21_600
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of a shop of three lines."""
    path = tmp_path_factory.mktemp("together") / "log.parquet"
    write_log(simulate(Shop(users=150, lines=3, days=3.0, launch_day=None, visits_per_day=1.4, conversion=0.2, window_s=WINDOW_S, seed=5)).log, path)
    return path


def pretrained(log: Path, folder: Path, ranks: int) -> str:
    """Run `headstart pretrain` in so many processes; returns what it printed on standard output."""
    command = ["-m", "streams.cli", "pretrain", str(log), "--window", str(WINDOW_S), "--trunk", str(folder), "--by-parts"]
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*start, *command], capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


SHARED_STEPS = """
import os, sys
import numpy as np
from models.pretrain import fit_scaler
from models.ranks import joined
from models.trunk import TrunkSettings, train_trunk
from tests.unit.synthetic_rows import make_rows

rows = make_rows(1501)
mean, std = fit_scaler(rows.x)
with joined(int(os.environ.get("WORLD_SIZE", "1"))) as ranks:
    settings = TrunkSettings(most_steps=40, dropout=0.0, batch=240 // ranks.size, check_steps=10)
    trunk, _ = train_trunk(rows, mean, std, seed=1, settings=settings, ranks=ranks)
    np.savez(sys.argv[1] + f"/{ranks.size}-{ranks.rank}.npz", **trunk.to_arrays().as_dict())
"""


def test_the_gradient_is_that_of_the_common_batch(tmp_path: Path) -> None:
    """Without dropout, three ranks with a third of the batch each take the steps of one with all of it, an uneven last batch included; all ranks to the same bits."""
    script = tmp_path / "steps.py"
    script.write_text(SHARED_STEPS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    for start in ([sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]):
        done = subprocess.run([*start, str(script), str(tmp_path)], capture_output=True, text=True, timeout=240, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    alone, *together = (dict(np.load(tmp_path / f"{name}.npz").items()) for name in ("1-0", "3-0", "3-1", "3-2"))
    for other in together[1:]:
        assert {name: array.tobytes() for name, array in other.items()} == {name: array.tobytes() for name, array in together[0].items()}
    for name, array in together[0].items():
        np.testing.assert_allclose(array, alone[name], atol=2e-5, err_msg=name)


def test_two_train_one_trunk(log: Path, tmp_path: Path) -> None:
    """Two ranks launch all lines in pretence that one would, and write one trunk, as good; again, and it has the same bits."""
    pretrained(log, tmp_path / "alone", 1)
    said = pretrained(log, tmp_path / "together", 2)
    pretrained(log, tmp_path / "again", 2)
    alone, together, again = (load(tmp_path / name, schema_hash=SCHEMA_HASH) for name in ("alone", "together", "again"))
    assert said.count("trunk ") == 1, said
    assert together.settings["pseudo_launches"] == alone.settings["pseudo_launches"]
    assert alone.settings["pseudo_launches"]
    assert {name: array.tobytes() for name, array in together.trunk.as_dict().items()} == {
        name: array.tobytes() for name, array in again.trunk.as_dict().items()
    }
    assert together.trunk.w1.tobytes() != alone.trunk.w1.tobytes(), "the ranks did not train together"
    assert abs(together.metrics["validation_auc"] - alone.metrics["validation_auc"]) < 0.05
    for name in ("raw_final", "trees_delay"):  # what does not rest on the trunk is the same to the bit
        assert together.heads[name].p.tobytes() == alone.heads[name].p.tobytes()
    assert together.fingerprint == alone.fingerprint
