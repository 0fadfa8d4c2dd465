"""The trained artifact: a folder with `trunk.safetensors` (every array) and `manifest.json` (every fact about it). Never a pickle; no torch to load."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from features.errors import InputError, Mismatch
from models.covariates import Reference
from models.encode import TrunkArrays
from models.head import Matrix, Posterior, Vector
from models.hierarchy import Hierarchy
from models.trees import TreeArrays
from models.whole_file import written_whole
from models.wire import under

FORMAT = 2
TENSORS, MANIFEST = "trunk.safetensors", "manifest.json"
FACTS_SHA256 = "facts_sha256"  # of everything else in the manifest
VERSIONED = ("numpy", "numba", "torch", "lightgbm", "safetensors")


@dataclass(frozen=True)
class Artifact:
    """What pre-training hands to scoring.

    `heads`: name of the map and of the labels it learns → posterior. `profiles` (M, D + 1): the mean z of each source line, NaN without rows.
    `sample_z` (R, D + 1) float32 and `sample_y` (R,): source rows that the instance-based expert weighs anew. `expert_pi` (K,): the prior of the experts.
    """

    feature_names: tuple[str, ...]
    schema_hash: str
    lines: tuple[str, ...]
    window_s: float
    edges_s: NDArray[np.float64]
    curve: NDArray[np.float64]
    trunk: TrunkArrays
    trees: TreeArrays
    heads: Mapping[str, Posterior]
    hierarchy: Hierarchy
    profiles: Matrix
    sample_z: NDArray[np.float32]
    sample_y: Vector
    c_trunk: float
    attribute_names: tuple[str, ...]
    offset_pi: NDArray[np.float64]
    expert_pi: NDArray[np.float64]
    deff: float
    trained_until_ms: int
    fingerprint: str
    metrics: Mapping[str, float]
    settings: Mapping[str, object]
    created: str = ""
    reference: Reference = field(default_factory=Reference.none, compare=False)
    """The training rows by decile, to see who comes. Of artifacts from before it was kept: none."""
    sha256: str = field(default="", compare=False)
    """Of the safetensors file: the artifact's identity. Empty until it has been saved."""


def save(artifact: Artifact, folder: Path | str) -> Artifact:
    """Write the two files, each in one step; the artifact with its sha256. InputError if the folder cannot be written."""
    folder = Path(folder)
    raw = _tensors(artifact)
    sha256 = hashlib.sha256(raw).hexdigest()
    manifest = {
        "format": FORMAT,
        "sha256": sha256,
        "schema_hash": artifact.schema_hash,
        "feature_names": list(artifact.feature_names),
        "lines": list(artifact.lines),
        "heads": list(artifact.heads),
        "window_s": artifact.window_s,
        "edges_s": artifact.edges_s.tolist(),
        "trained_until_ms": artifact.trained_until_ms,
        "deff": artifact.deff,
        "c_trunk": artifact.c_trunk,
        "attribute_names": list(artifact.attribute_names),
        "fingerprint": artifact.fingerprint,
        "architecture": {
            "features": artifact.trunk.features,
            "bins": len(artifact.trunk.w1),
            "layers": [len(artifact.trunk.b1), len(artifact.trunk.b2), len(artifact.trunk.b3)],
            "parameters": artifact.trunk.parameters(),
            "tree_parameters": artifact.trees.parameters(),
        },
        "metrics": dict(artifact.metrics),
        "settings": dict(artifact.settings),
        "created": artifact.created,
        "cpu": cpu_model(),
        "versions": {name: _version(name) for name in VERSIONED},
    }
    manifest[FACTS_SHA256] = _facts_sha256(manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((TENSORS, raw), (MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())):
            with written_whole(folder / name) as partial:
                partial.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write the model to {folder}: {error.strerror or error}") from error
    return load(folder)


def load(folder: Path | str, *, schema_hash: str | None = None) -> Artifact:
    """Read and verify an artifact. InputError if it is missing or damaged; Mismatch if it was trained on another feature schema."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        raw = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {folder / TENSORS}: {error.strerror or error}; train one with `headstart pretrain`") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if sha256 != manifest.get("sha256"):
        raise Mismatch(
            f"{folder / TENSORS} has sha256 {sha256[:12]}…, its manifest says {str(manifest.get('sha256'))[:12]}…: the two files do not belong together"
        )
    if manifest.get(FACTS_SHA256) != _facts_sha256(manifest):
        raise Mismatch(f"{folder / MANIFEST} is not as it was written: its {FACTS_SHA256} does not fit; train again")
    if schema_hash is not None and schema_hash != manifest.get("schema_hash"):
        raise Mismatch(
            f"the model in {folder} was trained on feature schema {manifest.get('schema_hash')}, this program has {schema_hash}: train again, or run the code that matches"
        )
    try:
        tensors = load_tensors(raw)
        # Copied out: aligned and writable whatever the file's layout.
        arrays = {name: np.array(a, order="C") for name, a in tensors.items()}
        return Artifact(
            feature_names=tuple(manifest["feature_names"]),
            schema_hash=manifest["schema_hash"],
            lines=tuple(manifest["lines"]),
            window_s=float(manifest["window_s"]),
            edges_s=arrays["edges_s"],
            curve=arrays["curve"],
            trunk=TrunkArrays(**under("trunk.", arrays)),
            trees=TreeArrays(**under("trees.", arrays)),
            heads={name: Posterior(arrays[f"head.{name}.m"], arrays[f"head.{name}.p"]) for name in manifest["heads"]},
            hierarchy=Hierarchy(**under("hierarchy.", arrays)),
            profiles=arrays["profiles"],
            sample_z=arrays["sample_z"],
            sample_y=arrays["sample_y"],
            c_trunk=float(manifest["c_trunk"]),
            attribute_names=tuple(manifest["attribute_names"]),
            offset_pi=arrays["offset_pi"],
            expert_pi=arrays["expert_pi"],
            deff=float(manifest["deff"]),
            trained_until_ms=int(manifest["trained_until_ms"]),
            fingerprint=manifest["fingerprint"],
            metrics=manifest["metrics"],
            settings=manifest["settings"],
            created=manifest["created"],
            reference=Reference(arrays["reference.edges"], arrays["reference.counts"]) if "reference.edges" in arrays else Reference.none(),
            sha256=sha256,
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InputError(f"the model in {folder} is damaged or incomplete: {error!r}") from error


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The facts about an artifact. InputError if there is none; Mismatch if its format is another."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"no model in {folder} ({MANIFEST}: {error.strerror or error}); train one with `headstart pretrain`") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is not a manifest: expected a JSON object")
    if manifest.get("format") != FORMAT:
        raise Mismatch(f"{path} has format {manifest.get('format')!r}, this program reads {FORMAT}")
    return manifest


def cpu_model() -> str:
    """The processor's name: bits hold for one kind."""
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _tensors(artifact: Artifact) -> bytes:
    arrays: dict[str, NDArray[np.generic]] = {f"trunk.{name}": a for name, a in artifact.trunk.as_dict().items()}
    arrays |= {f"trees.{name}": a for name, a in artifact.trees.as_dict().items()}
    arrays |= {f"hierarchy.{f.name}": getattr(artifact.hierarchy, f.name) for f in fields(Hierarchy)}
    for name, head in artifact.heads.items():
        arrays[f"head.{name}.m"], arrays[f"head.{name}.p"] = head.m, head.p
    arrays |= {name: getattr(artifact, name) for name in ("curve", "edges_s", "profiles", "sample_z", "sample_y", "offset_pi", "expert_pi")}
    if artifact.reference.known:
        arrays |= {"reference.edges": artifact.reference.edges, "reference.counts": artifact.reference.counts}
    return bytes(save_tensors({name: np.ascontiguousarray(a) for name, a in arrays.items()}))


def _facts_sha256(manifest: Mapping[str, Any]) -> str:
    facts = {name: fact for name, fact in manifest.items() if name != FACTS_SHA256}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
