"""The names by which the profile of `bench/stages.py` knows a stage are those of functions that are there: a renamed one would be counted elsewhere, unnoticed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_stage_of_the_profile_is_there() -> None:
    """Those of our own files; those of libraries are not looked for."""
    tree = ast.parse((ROOT / "bench" / "stages.py").read_text())
    (stages,) = (node.value for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "STAGES")
    assert stages is not None
    marks = [mark for _, of_stage in ast.literal_eval(stages) for mark in of_stage]
    named = [found.groups() for mark in marks if (found := re.fullmatch(r"(\w+) \(((?:streams|models|features)/\w+\.py)", mark))]
    assert len(named) > 12
    for name, file in named:
        assert re.search(rf"^ *(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"
