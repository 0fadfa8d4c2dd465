"""How Redis is reached, and as whom. Knows no client: `features.redis_store` connects."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit


@dataclass(frozen=True)
class RedisAccess:
    """An address and what is needed beside it. `user` and `password` win over the address's; `cluster`: it is a node of a Redis Cluster.

    The files are PEM, and count for rediss:// only: `cafile` has the authorities that the server's certificate is checked with
    ("": the system's), `certfile` and `keyfile` are what is shown to the server.
    """

    url: str = field(repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    check_hostname: bool = True
    cluster: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether the address asks for TLS."""
        return urlsplit(self.url).scheme == "rediss"

    @property
    def place(self) -> str:
        """HOST:PORT or a socket's path, without secrets."""
        parts = urlsplit(self.url)
        return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"

    @property
    def without_user(self) -> str:
        """The address without user and password."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
