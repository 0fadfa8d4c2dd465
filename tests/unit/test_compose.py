"""The compose file: well formed, healthy or done, and closed to other machines. `make compose-check` brings it up for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ONCE = {"secrets", "topics"}


def services() -> dict[str, dict[str, Any]]:
    """The services, with YAML's own merges done."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return found


def compose() -> list[str]:
    """Compose, as Docker's plugin or as a program; the test is skipped where there is neither."""
    alone = ROOT.parent / "shared" / "bin" / "docker-compose"
    if alone.exists():
        return [str(alone)]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return ["docker", "compose"]
    pytest.skip(f"no Docker Compose: neither `docker compose` nor {alone}")


def test_compose_takes_the_file() -> None:
    """`docker compose config` finds nothing wrong, and needs no variable to be set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")}
    done = subprocess.run(
        [*compose(), "--file", "docker-compose.yml", "config", "--quiet"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_port_is_open_to_other_machines() -> None:
    """Each mapped port is bound to loopback."""
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert len(ports) >= 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_that_stays_says_whether_it_is_well() -> None:
    """Those that run once end by themselves; all others have a health check and are started again."""
    found = services()
    assert found.keys() >= ONCE
    for name, service in found.items():
        if name not in ONCE:
            assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped", name


def test_images_have_versions_and_redis_keeps_what_it_has() -> None:
    """No image is whatever is newest; Redis writes a file, and refuses to write rather than to forget."""
    for service in services().values():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
        assert re.search(r":v?\d", image), image
    command = services()["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The Dockerfile's last stage has a user without rights, and no tool that builds."""
    last = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"^USER headstart$", last, re.MULTILINE)
    assert "pip install" not in last
