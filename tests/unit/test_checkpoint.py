"""Artifacts: what is saved is loaded to the bit, pre-training is deterministic, and nothing wrong is loaded in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from features.errors import InputError, Mismatch
from models.checkpoint import Artifact, load, read_manifest, save
from models.launch_head import LaunchHead
from models.model import HEADS, Model
from models.pretrain import PretrainSettings, PseudoLaunch, pretrain
from models.shared_heads import SharedHeads
from models.trunk import TrunkSettings
from tests.unit.synthetic_rows import make_rows

pytestmark = pytest.mark.xdist_group("checkpoint")  # what they share takes long to make

QUICK = PretrainSettings(TrunkSettings(most_steps=40), c_grid=(0.03,), pseudo_steps=20)


def train(seed: int = 0) -> Artifact:
    """A small artifact with pseudo-launches."""
    rows = make_rows(2000)
    at_ms = 400_000_000
    pseudo = [PseudoLaunch(rows.select((rows.line != k) | (rows.ts_ms >= at_ms)), k, at_ms) for k in range(4)]
    return pretrain(rows, pseudo=pseudo, seed=seed, schema_hash="schema-1", trained_until_ms=77, fingerprint="abc", created="by hand", settings=QUICK)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    """One for all tests of this file."""
    return train()


def test_what_is_saved_is_loaded(artifact: Artifact, tmp_path: Path) -> None:
    """Every array comes back to the bit, every fact as it was, and the model predicts the same bits."""
    saved = save(artifact, tmp_path / "new" / "folder")
    loaded = load(tmp_path / "new" / "folder", schema_hash="schema-1")
    for name, a in artifact.trunk.as_dict().items():
        assert loaded.trunk.as_dict()[name].tobytes() == a.tobytes()
    for name in HEADS:
        assert loaded.heads[name].p.tobytes() == artifact.heads[name].p.tobytes()
    assert (loaded.lines, loaded.window_s, loaded.deff, loaded.trained_until_ms) == (artifact.lines, artifact.window_s, artifact.deff, 77)
    assert loaded.sha256 == saved.sha256 == read_manifest(tmp_path / "new" / "folder")["sha256"]
    x = make_rows(30, seed=3).x
    before, after = (np.stack([a for e in LaunchHead.of(m).predict(m, SharedHeads.of(m), m.maps(x)) for a in e]) for m in (Model(artifact), Model(loaded)))
    assert before.tobytes() == after.tobytes()


def test_the_manifest_says_what_it_is(artifact: Artifact, tmp_path: Path) -> None:
    """Schema, lines, window, figures, machine and versions are there to read."""
    save(artifact, tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["architecture"]["parameters"] <= 200_000
    assert {"validation_auc", "validation_precision_at_5pct"} <= set(manifest["metrics"])
    assert manifest["feature_names"][0] == "feature_0"
    assert manifest["versions"]["torch"]
    assert manifest["cpu"]
    assert manifest["created"] == "by hand"


def test_pretraining_is_deterministic(artifact: Artifact, tmp_path: Path) -> None:
    """The same rows and seed give the same two files; another seed another trunk."""
    hashes = [save(a, tmp_path / str(k)).sha256 for k, a in enumerate((artifact, train(), train(seed=1)))]
    assert hashes[0] == hashes[1] != hashes[2]
    assert (tmp_path / "0" / "manifest.json").read_bytes() == (tmp_path / "1" / "manifest.json").read_bytes()


def test_another_schema_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    """Mismatch, with both hashes and what to do."""
    save(artifact, tmp_path)
    with pytest.raises(Mismatch, match=r"schema-1.*schema-2.*train again"):
        load(tmp_path, schema_hash="schema-2")


def test_a_changed_file_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    """One flipped bit in the weights is a Mismatch."""
    save(artifact, tmp_path)
    path = tmp_path / "trunk.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Mismatch, match="sha256"):
        load(tmp_path)


def test_what_is_missing_is_named(artifact: Artifact, tmp_path: Path) -> None:
    """No folder, no weights, no JSON, or an incomplete manifest: one line with the path."""
    with pytest.raises(InputError, match=r"no model in .*nowhere"):
        load(tmp_path / "nowhere")
    save(artifact, tmp_path)
    manifest = read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "lines"}))
    with pytest.raises(Mismatch, match="not as it was written"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(Mismatch, match="99"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load(tmp_path)
    save(artifact, tmp_path)
    (tmp_path / "trunk.safetensors").unlink()
    with pytest.raises(InputError, match=r"trunk\.safetensors"):
        load(tmp_path)


def test_an_unwritable_folder_is_an_input_error(artifact: Artifact, tmp_path: Path) -> None:
    """A file where the folder should be: one line, no traceback of the operating system's."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the model"):
        save(artifact, tmp_path / "file" / "model")


def test_rows_that_teach_nothing_are_refused() -> None:
    """No rows, no orders, or NaN among the features: InputError before anything is trained."""
    rows = make_rows(200)

    def attempt(bad: object) -> None:
        pretrain(bad, schema_hash="s", trained_until_ms=0, fingerprint="f", settings=QUICK)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="no final exposures"):
        attempt(rows.select(np.zeros(200, dtype=bool)))
    with pytest.raises(InputError, match="at least 10"):
        attempt(rows.select(rows.ordered == 0))
    rows.x[3, 2] = np.nan
    with pytest.raises(InputError, match="feature_2"):
        attempt(rows)


def test_the_prior_of_offsets_is_learned_from_pseudo_launches(artifact: Artifact) -> None:
    """π is a distribution, from as many curves as there were lines; alike lines leave most weight on the spike."""
    assert artifact.settings["pseudo_launches"] == 4
    assert artifact.offset_pi.sum() == pytest.approx(1.0)
    assert artifact.offset_pi[0] > 0.6
    assert artifact.deff >= 1.0
