"""The Prometheus rules and the Grafana board that come with the compose file: well formed, made of figures that exist, and explained."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.alerts import KINDS, severity_of
from streams.incidents import INCIDENTS, incident
from streams.meters import BY_NAME, METERS

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    return [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels that show something."""
    board = json.loads((MONITORING / "grafana" / "dashboards" / "headstart.json").read_text())
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every query of a panel or a rule."""
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]


def used() -> set[str]:
    """The figures that the expressions ask for, by their names in the list."""
    names = {name for text in expressions() for name in re.findall(r"\b(?:headstart|process)_[a-z_]+", text)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_only_figures_of_the_list_are_asked_for() -> None:
    """No query names a figure that no worker has."""
    assert used() <= {*BY_NAME, *PROCESS}


def test_every_figure_is_shown_or_watched() -> None:
    """What nobody looks at need not be measured."""
    assert {meter.name for meter in METERS} - used() <= {"headstart_exposures_total", "headstart_held_records", "headstart_info"}


def test_the_board_is_made_of_its_table() -> None:
    """headstart.json is what board.py writes; its panels have numbers of their own and do not overlap."""
    spec = importlib.util.spec_from_file_location("board", MONITORING / "board.py")
    assert spec is not None and spec.loader is not None
    board = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(board)
    assert board.FILE.read_text(encoding="utf-8") == board.text()
    shown = panels()
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shown}) == len(shown)


def test_every_alert_is_explained_in_the_runbook() -> None:
    """docs/operations.md has a section for each, and none for an alert that there is not; each says how bad it is and what it means."""
    runbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"^### (Headstart\w+)", runbook, re.MULTILINE))
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}
        assert rule["annotations"]["summary"].endswith(".")


def test_every_incident_is_watched_and_explained() -> None:
    """Each kind has a section in the runbook that says what to do, and a rule that also sees it where the figure begins above 0, and of that severity there."""
    runbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for kind in INCIDENTS:
        figure = "headstart_lost_records_total" if kind == "records_lost" else kind
        (rule,) = [rule for rule in rules() if figure in rule["expr"]]
        assert rule["expr"].count(figure) >= 2
        assert "increase(" in rule["expr"]
        assert " unless " in rule["expr"]
        assert f"### {kind}\n**{rule['labels']['severity']}" in runbook
        assert (rule["labels"]["severity"] == "page") == (incident(kind, "").severity == "page")


def test_every_alert_of_the_learner_is_watched_and_explained() -> None:
    """One that pages has a rule that pages, and a line in that rule's section; one that explains has a rule that does not page."""
    runbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    of = {severity: [rule for rule in rules() if f'severity="{severity}"' in rule["expr"]] for severity in map(severity_of, KINDS)}
    assert [[rule["labels"]["severity"] for rule in of[severity]] for severity in ("page", "note")] == [["page"], ["info"]]
    for kind in KINDS:
        (rule,) = of[severity_of(kind)]
        section = runbook.partition(f"### {rule['alert']}\n")[2].partition("\n### ")[0]
        assert f"`{kind}`" in section


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on the PATH: install Debian's package prometheus")
@pytest.mark.parametrize(
    "arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]]
)
def test_promtool_finds_nothing_wrong(arguments: list[str]) -> None:
    """Prometheus' own check of the rules and the configuration, and our tests of when an alert comes."""
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
