"""How a setting's value is read: from a TOML value, from an environment variable's text, or from an option. Nothing here knows the sources.

A `Form` says in words what it expects and reads a raw value; it raises ValueError (without a text) for anything else.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class Form:
    """What a value must look like (`expected`, for messages) and how it is read."""

    expected: str
    read: Callable[[object], object]


def _text_of(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError
    return raw.strip()


def whole(minimum: int, maximum: int | None = None) -> Form:
    """An integer in [minimum, maximum]; text such as "1_000" is read too, true and 12.0 are not."""
    expected = f"an integer ≥ {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"

    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        value = int(raw)
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError
        return value

    return Form(expected, read)


def number(minimum: float, maximum: float | None = None) -> Form:
    """A finite number in [minimum, maximum]."""
    expected = f"a number ≥ {minimum:g}" if maximum is None else f"a number from {minimum:g} to {maximum:g}"

    def read(raw: object) -> object:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        value = float(raw)
        if not math.isfinite(value) or value < minimum or (maximum is not None and value > maximum):
            raise ValueError
        return value

    return Form(expected, read)


def one_of(*choices: str) -> Form:
    """One of a few words, in the case given here; upper and lower case are read alike."""
    by_lower = {choice.lower(): choice for choice in choices}

    def read(raw: object) -> object:
        try:
            return by_lower[_text_of(raw).lower()]
        except KeyError:
            raise ValueError from None

    return Form(f"one of {', '.join(choices)}", read)


def pattern(expected: str, regex: str) -> Form:
    """Text that matches the whole of `regex`."""
    compiled = re.compile(regex)

    def read(raw: object) -> object:
        text = _text_of(raw)
        if not compiled.fullmatch(text):
            raise ValueError
        return text

    return Form(expected, read)


def _read_switch(raw: object) -> object:
    if isinstance(raw, bool):
        return raw
    word = _text_of(raw).lower()
    if word in {"on", "true", "yes", "1"}:
        return True
    if word in {"off", "false", "no", "0"}:
        return False
    raise ValueError


def _read_brokers(raw: object) -> object:
    addresses = [address.strip() for address in _text_of(raw).split(",")]
    for address in addresses:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})", address)
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ValueError
    return ",".join(addresses)


def _read_verbatim(raw: object) -> object:
    """A password may begin or end with a space."""
    if not isinstance(raw, str):
        raise ValueError
    return raw


def _read_address(raw: object) -> object:
    """HOST:PORT, or PORT alone, which is loopback's; "" is nowhere. Returned with its host."""
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text_of(raw)
    if not text:
        return ""
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):)?(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise ValueError
    return f"{match[1] or LOOPBACK}:{int(match[2])}"


def _read_redis_url(raw: object) -> object:
    text = _text_of(raw)
    parts = urlsplit(text)  # its port raises ValueError when it is not a number
    if parts.scheme == "unix" and parts.path:
        return text
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.port == 0:
        raise ValueError
    return text


def _read_path(raw: object) -> object:
    if isinstance(raw, Path):
        return raw
    text = _text_of(raw)
    if not text:
        raise ValueError
    return Path(text).expanduser()


def _read_zone(raw: object) -> object:
    text = _text_of(raw)
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):  # a folder of the zone database is an OSError
        raise ValueError from None
    return text


def mapping(keys: tuple[str, ...]) -> Form:
    """Names for some of `keys`, as a table or as text: "browse=shop.views,order=shop.orders"."""

    def read(raw: object) -> object:
        if isinstance(raw, str):
            pairs = [pair.partition("=") for pair in raw.split(",") if pair.strip()]
            if not all(equals for _, equals, _ in pairs):
                raise ValueError
            raw = {key.strip(): value.strip() for key, _, value in pairs}
        if not isinstance(raw, Mapping):
            raise ValueError
        for key, value in raw.items():
            if key not in keys or not isinstance(value, str) or not TOPIC_NAME.fullmatch(value):
                raise ValueError
        if len(set(raw.values())) < len(raw):
            raise ValueError
        return {key: raw[key] for key in keys if key in raw}

    return Form(f"different Kafka topic names by topic, such as browse=shop.views (topics: {', '.join(keys)})", read)


switch = Form("on or off", _read_switch)
brokers = Form("HOST:PORT[,HOST:PORT…]", _read_brokers)
address = Form("HOST:PORT, or PORT of loopback", _read_address)
redis_url = Form("redis://[USER@]HOST:PORT[/DB], rediss://… or unix:///PATH", _read_redis_url)
short_name = pattern("1 to 64 letters, digits, _ or -", "[A-Za-z0-9_-]{1,64}")  # a brace would end a hash tag of Redis Cluster
prefix = pattern("letters, digits, ., _ or -", "[A-Za-z0-9._-]{0,200}")
anything = pattern("text", ".*")
verbatim = Form("text", _read_verbatim)
path = Form("a path", _read_path)
zone = Form("a time zone such as UTC or Europe/Berlin", _read_zone)


def shown(value: object) -> str:
    """A value as a person would write it in the environment; `shown(read(text))` reads back to the same value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={name}" for key, name in value.items())
    return str(value)


def masked(name: str, value: object) -> str:
    """As `shown`, without secrets: a URL's password is ***, and so is everything of a setting named like a secret."""
    text = shown(value)
    if text and re.search(r"password|secret|token", name, re.IGNORECASE):
        return "***"
    # Greedy up to the last @: a password may hold one unescaped, and a wrong guess must hide too much rather than too little.
    text = re.sub(r"://([^/?#:@]*):.*@", r"://\1:***@", text)
    return re.sub(r"([?&](?:password|secret|token)=)[^&]*", r"\1***", text, flags=re.IGNORECASE)
