"""What must not be shown: the secrets that this process has read, hidden from whatever it logs or prints as an error.

Settings are masked where they are shown (`streams.setting_values.masked`). This is the net below: a library's message, or an exception's,
may quote an address or a password. `streams.settings.load_settings` tells what to hide.
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

MASK: Final = "***"
SHORTEST: Final = 4
"""A shorter secret is not searched for: it would take half of every text with it."""

_secrets: set[str] = set()


def remember(secret: str) -> None:
    """Hide a secret from now on, as it is and as a URL writes it."""
    if len(secret) >= SHORTEST:
        _secrets.update({secret, quote(secret, safe=""), unquote(secret)})


def passwords_in(url: str) -> list[str]:
    """Return the passwords that a URL holds: before its host, or as `?password=`, which Redis' client takes too. Of what is no URL, none."""
    try:
        parts = urlsplit(url)
        return [password for password in (parts.password, *parse_qs(parts.query).get("password", ())) if password]
    except ValueError:
        return []


def remember_url(url: str) -> None:
    """Hide a URL's passwords from now on."""
    for password in passwords_in(url):
        remember(password)


def hidden(text: str) -> str:
    """Return the text with *** in place of every known secret."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


class Formatter(logging.Formatter):
    """Formats a record, its traceback included, and hides what is secret in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        return hidden(super().format(record))
