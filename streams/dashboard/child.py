"""The dashboard beside `headstart up` and `headstart demo`: a process of its own that ends with them."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

from streams.embedded import HOST, EmbeddedServer
from streams.settings import Settings, child_environment, with_changes


class DashboardServer(EmbeddedServer):
    """`headstart dashboard` on a port of this machine, a free one if the settings do not say which, for their namespace."""

    name = "Dashboard"

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        given = "dashboard_port" in settings.came_from
        super().__init__(folder, port=settings.dashboard_port if given else None)
        self._token = settings.http_token
        self._settings = with_changes(settings, dashboard_host=HOST)

    def whole_environment(self) -> dict[str, str]:
        """What the settings say, and nothing that is said of them elsewhere."""
        return child_environment(self._settings)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.address}/"

    def command(self) -> list[str]:
        """`headstart dashboard` on `self.port`."""
        return [sys.executable, "-m", "streams.cli", "dashboard", "--host", HOST, "--port", str(self.port)]

    def answers(self, timeout_s: float) -> bool:
        """Whether our own process serves on the port."""
        request = urllib.request.Request(self.url + "healthz", headers={"Authorization": f"Bearer {self._token}"} if self._token else {})
        try:  # the address is our own
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # nosec B310
                return bool(answer.read().split()[1:] == [str(self.pid).encode()])
        except urllib.error.HTTPError:
            return True  # it wants a password, as it was told to
