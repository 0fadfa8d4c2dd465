"""A real Prometheus with our rules, fed by a real worker: every query of the board has an answer, and every rule can be evaluated."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from features.events import Event
from streams.embedded import HOST, EmbeddedServer, free_port
from tests.integration.harness import Live, wait_until
from tests.integration.test_live import browsing, now_ms, ordering
from tests.unit.test_monitoring import MONITORING, panels, rules

TOKEN = "t0ken-of-prometheus"
WINDOW_S = 8


class Prometheus(EmbeddedServer):
    """Debian's Prometheus, with our rules, which scrapes one worker every half second."""

    name = "Prometheus"

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__(folder)
        self.target = target

    def command(self) -> list[str]:
        token = self.folder / "token"
        token.write_text(TOKEN)
        scrape = {"job_name": "headstart", "authorization": {"credentials_file": str(token)}, "static_configs": [{"targets": [self.target]}]}
        config = self.folder / "prometheus.yml"
        config.write_text(
            json.dumps({
                "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"}, "rule_files": [str(MONITORING / "alerts.yml")], "scrape_configs": [scrape],
            })  # YAML, too
        )  # fmt: skip
        return [
            shutil.which("prometheus") or "", f"--config.file={config}", f"--storage.tsdb.path={self.folder}/data", f"--web.listen-address={self.address}",
            "--log.level=warn",
        ]  # fmt: skip

    def ask(self, path: str, **parameters: str) -> Any:
        """An answer of its API."""
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def answers(self, timeout_s: float) -> bool:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=timeout_s) as answer:
            return bool(answer.status == 200)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on the PATH: install Debian's package prometheus")
def test_every_panel_has_data_and_every_rule_is_evaluated(quick_trunk: Path, broker: str, redis_url: str, tmp_path: Path) -> None:
    """The board's queries, with the events of a few seconds, each give at least one series; no rule fails, and none that should not fires."""
    address = f"{HOST}:{free_port()}"
    with (
        Live(quick_trunk, broker, redis_url, tmp_path, partitions=2, http_address=address, http_token=TOKEN) as job,
        Prometheus(tmp_path / "p", address) as server,
    ):
        job.prepare()
        job.start_ready(1)
        sent, until_s = 0, time.monotonic() + WINDOW_S + 2
        while time.monotonic() < until_s:
            again = (
                (kind, Event(event_id=f"{event.event_id}-{sent}", user_id=event.user_id, product_id="p", line=event.line, ts=now_ms()))
                for kind, event in [*browsing(), *ordering()]
            )
            sent += job.send(again)
            time.sleep(0.5)
        wait_until(lambda: job.totals().get("read") == sent, "all is worked", log=job.log)

        def without_data() -> dict[str, str]:
            queries = {
                f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", f"{WINDOW_S}s")
                for panel in panels()
                for target in panel["targets"]
            }
            return {name: query for name, query in queries.items() if not server.ask("query", query=query)["result"]}

        wait_until(lambda: not without_data(), "every panel has data", log=job.log, timeout_s=20, poll_s=0.5)
        told = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["name"] for rule in told} == {rule["alert"] for rule in rules()}
        assert [(rule["name"], rule.get("lastError")) for rule in told if rule["health"] != "ok"] == []
        assert [rule["name"] for rule in told if rule["state"] == "firing"] == []
        (target,) = server.ask("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        subprocess.run(["promtool", "query", "instant", f"http://{server.address}", "up"], capture_output=True, timeout=20, check=True)
