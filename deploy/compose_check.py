"""Bring the compose file up for real, use it from this machine, restart it, take it down: `make compose-check`. Says what it saw; exits with 1 at the first that is not so.

Needs Docker with Compose. Runs as a project of its own (headstart-check), on free ports, with a small trunk of a simulated shop in var/compose-check, and
removes its containers and volumes at the end. The images of docker-compose.yml are taken from this machine, or pulled; where Grafana's cannot be had, the rest
is checked without it, and that is said.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "var" / "compose-check"
HEADSTART = str(Path(sys.executable).with_name("headstart"))
PROJECT = "headstart-check"
OPTIONAL = "grafana"
UP_S = 420


class Failed(Exception):
    """What was expected and is not so."""


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Check:
    """One pass."""

    def __init__(self) -> None:
        names = ("KAFKA_PORT", "REDIS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT", "DASHBOARD_PORT")
        self.ports = {name: free_port() for name in names}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")},
            **{name: str(port) for name, port in self.ports.items()}, "TRUNK": str(FOLDER / "trunk"), "COMPOSE_PROJECT_NAME": PROJECT,
        }  # fmt: skip
        self.began_s = time.monotonic()

    def say(self, what: str) -> None:
        """One line of what was seen."""
        print(f"{time.monotonic() - self.began_s:6.1f} s  {what}", flush=True)

    def run(self, *command: str, check: bool = True, more: Mapping[str, str] | None = None) -> str:
        """Run a command and return what it printed; `more` goes into its environment."""
        environment = {**self.environment, **(more or {})}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800, check=False)
        if check and done.returncode:
            raise Failed(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run Docker Compose."""
        return self.run("docker", "compose", *arguments, check=check)

    def headstart(self, *arguments: str) -> str:
        """Run `headstart` on this machine, against the mapped ports."""
        where = {"HEADSTART_BROKER": f"localhost:{self.ports['KAFKA_PORT']}", "HEADSTART_REDIS": f"redis://localhost:{self.ports['REDIS_PORT']}/0"}
        return self.run(HEADSTART, *arguments, more=where)

    def until(self, true: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
        """Wait until something holds."""
        give_up_s = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > give_up_s:
                raise Failed(
                    f"not within {timeout_s:g} s: {what}\n{self.compose('ps', '--all', check=False)}\n{self.compose('logs', '--tail', '15', 'worker', check=False)}"
                )
            time.sleep(1)

    def image(self, variable: str, *names: str) -> bool:
        """Take the first image that is here or can be pulled."""
        for name in names:
            if not subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode:
                self.environment[variable] = name
                return True
        pulled = subprocess.run(["docker", "pull", "--quiet", names[0]], capture_output=True, check=False)
        self.environment[variable] = names[0]
        return not pulled.returncode

    def all_of_it(self) -> None:
        """Do everything."""
        self.run("docker", "info")
        self.compose("config", "--quiet")
        self.say(f"docker compose config: well formed ({self.run('docker', 'compose', 'version', '--short').strip()})")
        self._trunk()
        services = self.compose("config", "--services").split()
        if not self.image("PROMETHEUS_IMAGE", "prom/prometheus:v2.55.1", "prom/prometheus:latest"):
            raise Failed("the image prom/prometheus is neither here nor can it be pulled")
        if not self.image("GRAFANA_IMAGE", "grafana/grafana:11.3.1", "grafana/grafana:latest"):
            services.remove(OPTIONAL)
            self.say("NOT CHECKED: Grafana's image is neither here nor can it be pulled; its board's queries are checked against Prometheus by the tests")
        self._wheel()
        self.compose("build", "worker")
        self.say(
            "the image is built: " + self.run("docker", "image", "inspect", "--format", "{{.Size}} bytes, user {{.Config.User}}", "headstart:0.1.0").strip()
        )
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(UP_S), *[name for name in services if name not in ("secrets", "topics")])
        self._healthy(services)
        self.say(self.headstart("topics", "check").strip())
        self._events("a", 40)
        self._prometheus()
        self._dashboard()
        before = self._scores(40)
        self.compose("restart")
        self.until(lambda: self._states(services) == {}, "all are healthy again after a restart", UP_S)
        self.say("docker compose restart: all healthy again")
        if not before <= self._scores(40):
            raise Failed("scores were lost by the restart")
        self._events("b", 20)
        if not before < self._scores(60):
            raise Failed("nothing was scored after the restart")
        self.headstart("launch", "show", "spring", "--json", str(FOLDER / "launch.json"))
        self.say(f"Redis kept the launch over the restart: {json.loads((FOLDER / 'launch.json').read_text())['id']}")
        self.compose("down", "--volumes", "--timeout", "20")
        left = self.run("docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") + self.run(
            "docker", "volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"
        )
        if left.strip():
            raise Failed(f"left after down: {left}")
        self.say("docker compose down: no container and no volume is left")

    def _trunk(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        if not (FOLDER / "trunk" / "manifest.json").exists():
            start = (dt.datetime.now(dt.UTC) - dt.timedelta(days=13)).date().isoformat()
            self.run(HEADSTART, "simulate", "--out", str(FOLDER / "shop.parquet"), "--start", start, "--users", "400", "--days", "12")
            self.run(HEADSTART, "pretrain", str(FOLDER / "shop.parquet"), "--without-line", "launch", "--trunk", str(FOLDER / "trunk"))
        self.say("a trunk of a simulated shop")

    def _wheel(self) -> None:
        """Where PyTorch's index cannot be reached, give the build the wheel that pip finds on this machine."""
        index = self.environment.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
        try:
            if index:
                urllib.request.urlopen(index, timeout=10).close()
            return
        except OSError:
            version = self.run(sys.executable, "-c", "import importlib.metadata as m; print(m.version('torch'))").strip()
            self.run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "deploy/wheels", f"torch=={version}")
            self.environment["TORCH_INDEX"] = ""
            self.say(f"{index} cannot be reached: the build takes torch {version} from deploy/wheels")

    def _states(self, services: list[str]) -> dict[str, str]:
        """The services that are not as they must be."""
        told = [json.loads(line) for line in self.compose("ps", "--all", "--format", "json", check=False).splitlines() if line.startswith("{")]
        state = {entry["Service"]: "done" if entry["State"] == "exited" and not entry["ExitCode"] else entry["Health"] or entry["State"] for entry in told}
        return {name: state.get(name, "missing") for name in services if state.get(name) not in ("healthy", "done")}

    def _healthy(self, services: list[str]) -> None:
        self.until(lambda: not self._states(services), "all services are healthy", UP_S)
        self.say(f"healthy, or done: {', '.join(services)}")

    def _events(self, name: str, number: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        if name == "a":
            self.headstart("launch", "add", "spring", "--line", "launch", "--trunk", str(FOLDER / "trunk"), "--from", str(now_ms - 60_000))
        lines = [
            {"kind": "browse", "event_id": f"{name}{i}", "user_id": f"u{i}", "product_id": "p1", "line": "launch", "ts": now_ms + i} for i in range(number)
        ]  # fmt: skip
        file = FOLDER / "events.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.say("from this machine: " + self.headstart("publish", str(file)).strip())

    def _scores(self, number: int) -> set[str]:
        found: set[str] = set()

        def enough() -> bool:
            found.update(json.loads(line)["score_id"] for line in self.headstart("scores").splitlines() if line.startswith("{"))
            return len(found) >= number

        self.until(enough, f"{number} scores")
        self.say(f"from this machine: {len(found)} scores")
        return found

    def _dashboard(self) -> None:
        password = self.compose("exec", "-T", "dashboard", "cat", "/run/headstart/http_password").strip()
        login = {"Authorization": "Basic " + base64.b64encode(f"headstart:{password}".encode()).decode()}

        def ask(path: str, headers: Mapping[str, str]) -> int:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"http://localhost:{self.ports['DASHBOARD_PORT']}{path}", headers=dict(headers)), timeout=20
                ) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return int(error.code)

        told = [ask("/", login), ask("/launches/spring", login), ask("/", {}), ask("/api/page", {})]
        if told != [200, 200, 401, 401]:
            raise Failed(f"the dashboard answers {told}, expected [200, 200, 401, 401]")
        self.say("dashboard: overview and launch with the password, 401 without")

    def _prometheus(self) -> None:
        def ask(query: str) -> list[Any]:
            with urllib.request.urlopen(
                f"http://localhost:{self.ports['PROMETHEUS_PORT']}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10
            ) as answer:
                found: list[Any] = json.load(answer)["data"]["result"]
                return found

        self.until(lambda: any(float(row["value"][1]) for row in ask("sum(headstart_events_total)")), "Prometheus has the worker's figures")
        self.say(f"Prometheus: {ask('sum(headstart_events_total)')[0]['value'][1]} events, {len(ask('up'))} worker(s) up, scraped with the token")


def main() -> int:
    """Check, and take down whatever happens."""
    check = Check()
    try:
        check.all_of_it()
    except (Failed, subprocess.TimeoutExpired, OSError) as error:
        print(f"compose-check: {error}", file=sys.stderr)
        return 1
    finally:
        subprocess.run(["docker", "compose", "down", "--volumes", "--timeout", "20"], cwd=ROOT, env=check.environment, capture_output=True, check=False)
    print("compose-check: all of it was seen")
    return 0


if __name__ == "__main__":
    sys.exit(main())
