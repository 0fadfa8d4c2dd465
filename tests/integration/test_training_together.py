"""Processes that train together, started by torchrun: one trunk, that of their common batches; all of the lines launched in pretence; every run the same."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.vector import SCHEMA_HASH
from models.checkpoint import load
from models.pretrain import fit_scaler
from models.ranks import ALONE, Ranks
from models.trunk import TrunkSettings, train_trunk
from streams.importing import write_log
from streams.shop import Shop, simulate
from tests.unit.synthetic_rows import make_rows

pytestmark = pytest.mark.xdist_group("training_together")

WINDOW_S = 21_600
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of a shop of three lines."""
    path = tmp_path_factory.mktemp("together") / "log.parquet"
    write_log(simulate(Shop(users=100, lines=3, days=3.0, launch_day=None, visits_per_day=1.4, conversion=0.3, window_s=WINDOW_S, seed=5)).log, path)
    return path


def pretrained(log: Path, folder: Path, ranks: int) -> str:
    """Run `headstart pretrain` in so many processes; returns what it printed on standard output."""
    command = ["-m", "streams.cli", "pretrain", str(log), "--window", str(WINDOW_S), "--trunk", str(folder), "--by-parts"]
    start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run([*start, *command], capture_output=True, text=True, timeout=240, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


STEPS = TrunkSettings(most_steps=40, dropout=0.0, batch=240, check_steps=10)
A_RANKS_STEPS = """
import sys
from pathlib import Path
from models.ranks import joined
from tests.integration.test_training_together import gloos_threads, steps

with joined(2) as ranks:
    steps(ranks, sys.argv[1] + f"/{ranks.rank}.npz")
    then = gloos_threads()
Path(sys.argv[1], f"threads_{ranks.rank}").write_text(f"{then > 0} {gloos_threads()}")
"""


def steps(ranks: Ranks, file: str) -> None:
    """Take the steps with the ranks' share of each batch, and write the trunk's arrays."""
    rows = make_rows(1501)
    trunk, _ = train_trunk(rows, *fit_scaler(rows.x), seed=1, settings=replace(STEPS, batch=STEPS.batch // ranks.size), ranks=ranks)
    np.savez(file, **trunk.to_arrays().as_dict())  # type: ignore[arg-type]  # savez's own flags are keywords too


def gloos_threads() -> int:
    """How many of this process' threads are gloo's; their names are Linux' to tell."""
    return sum("gloo" in name.read_text() for name in Path("/proc/self/task").glob("*/comm"))


def test_the_gradient_is_that_of_the_common_batch(tmp_path: Path) -> None:
    """Without dropout, two ranks with half of the batch each take the steps of one with all of it, an uneven last batch included; both ranks to the same bits.

    Nothing of gloo goes on when they are done: its threads would do so while the interpreter ends, which can abort a process that has done its work.
    """
    (tmp_path / "steps.py").write_text(A_RANKS_STEPS)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*start, str(tmp_path / "steps.py"), str(tmp_path)], capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"threads_{rank}").read_text() == "True 0", "gloo's threads while the ranks were joined, and afterwards"
    steps(ALONE, str(tmp_path / "alone.npz"))
    alone, first, second = (dict(np.load(tmp_path / f"{name}.npz").items()) for name in ("alone", "0", "1"))
    assert {name: array.tobytes() for name, array in first.items()} == {name: array.tobytes() for name, array in second.items()}
    for name, array in first.items():
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
