"""Nothing that was stored or received is ever unpickled: a pickle can run any code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import InputError, Mismatch
from models.checkpoint import MANIFEST, TENSORS, load, save
from tests.builders import make_artifact

ROOT = Path(__file__).parents[2]
SOURCES = sorted(file for package in ("streams", "models", "features", "bench") for file in (ROOT / package).rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"torch.load", "pd.read_pickle", "pandas.read_pickle"}

EVIL = b"cos\nsystem\n(S'echo unpickled > owned'\ntR."

READ_ALL = """
import sys
heard = []
def hook(event, arguments):
    if event == "pickle.find_class":
        heard.append(arguments)
from tests.fuzz.decoders import DECODERS, check
for name in ("record", "open exposure"):  # Numba unpickles a kernel of its own at the first call
    check(name, DECODERS[name].seeds[0])
sys.addaudithook(hook)
for name, decoder in DECODERS.items():
    for seed in (*decoder.seeds, b"cos\\nsystem\\n(S'echo unpickled > owned'\\ntR."):
        check(name, seed)
print(heard)
"""


def test_no_module_imports_a_pickler_or_loads_with_one() -> None:
    """Neither pickle nor its kin is imported anywhere, and no loader that falls back on it is called."""
    found = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file.name}: import {name}" for name in names if name.partition(".")[0] in MODULES]
            if isinstance(node, ast.Call) and (ast.unparse(node.func) in CALLS or any(keyword.arg == "allow_pickle" for keyword in node.keywords)):
                found.append(f"{file.name}:{node.lineno} {ast.unparse(node.func)}")
    assert not found


def test_reading_everything_that_is_stored_unpickles_nothing(tmp_path: Path) -> None:
    """While every decoder reads what it was made for, and a pickle, Python's own audit hears of no class that a pickle asked for."""
    done = subprocess.run([sys.executable, "-c", READ_ALL], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (ROOT / "owned").exists()


@pytest.mark.parametrize("file", [MANIFEST, TENSORS])
def test_a_pickle_in_place_of_a_trunks_file_is_refused(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not belong to the other file, and what it wants to run is not run."""
    monkeypatch.chdir(tmp_path)
    save(make_artifact("shoes"), tmp_path / "trunk")
    (tmp_path / "trunk" / file).write_bytes(EVIL)
    with pytest.raises((InputError, Mismatch)):
        load(tmp_path / "trunk")
    assert not (tmp_path / "owned").exists()
