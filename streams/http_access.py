"""Who may call an HTTP endpoint of ours: nobody from outside this machine, unless a token or a name with a password is asked for.

Knows no server: whoever serves asks `Access.allows` for each request, and answers 401 with `CHALLENGE` where it says no.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
from dataclasses import dataclass, field
from typing import Final

from features.errors import InputError
from streams.settings import Settings

CHALLENGE: Final = 'Basic realm="headstart", charset="UTF-8"'
"""The header WWW-Authenticate of a 401; a browser then asks for name and password."""


@dataclass(frozen=True)
class Access:
    """What is asked for: a bearer token, or a user with a password (either will do where both are set); without both, a caller on this machine."""

    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings, host: str) -> Access:
        """Return what the settings ask for. Raises InputError when they ask for nothing and `host` is not loopback, or for half of something."""
        if bool(settings.http_user) != bool(settings.http_password):
            raise InputError("http_user and http_password (or http_password_file) belong together: give both")
        access = cls(settings.http_token, settings.http_user, settings.http_password)
        if access.is_open and not is_loopback(host):
            raise InputError(f"{host} can be reached from other machines: give http_token or http_user and http_password, or use 127.0.0.1")
        return access

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.token or self.user)

    def allows(self, authorization: str | None, host: str | None) -> bool:
        """Whether a request with these headers (Authorization and Host) may pass.

        Where nothing is asked for, the host must be a name of this machine: else any web page could have its visitor's browser ask for it, by a
        name of its own that leads to 127.0.0.1.
        """
        if self.is_open:
            return host is not None and is_loopback(_without_port(host))
        scheme, _, given = (authorization or "").partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer":
            return bool(self.token) and _same(given, self.token)
        if scheme.lower() == "basic":
            try:
                user, colon, password = base64.b64decode(given, validate=True).decode().partition(":")
            except ValueError:  # no base64, or no text in it
                return False
            both = _same(user, self.user) & _same(password, self.password)  # no short cut
            return bool(self.user and colon) and both
        return False

    @property
    def asks_for(self) -> str:
        """What a request lacks that may not pass, in words."""
        return "ask by a name of this machine, such as 127.0.0.1" if self.is_open else "a token, or a name and a password, is asked for"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own loopback, by address or as localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())  # a header's bytes need not be text
