"""Who may call an HTTP endpoint."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from streams.http_access import Access, is_loopback
from streams.settings import Settings

TOKEN, PASSWORD = "t0ken-of-many-letters", "pass:wörd"


def basic(user: str, password: str) -> str:
    """A header with name and password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_loopback_needs_nothing_and_anything_else_needs_proof() -> None:
    """By default only loopback can be bound; another address is refused until a token or a user with a password is set."""
    assert Access.of(Settings(), "127.0.0.1").is_open
    for host in ("0.0.0.0", "::", "10.0.0.7", "shop.example"):
        with pytest.raises(InputError, match="http_token"):
            Access.of(Settings(), host)
        assert not Access.of(Settings(http_token=TOKEN), host).is_open
        assert not Access.of(Settings(http_user="ann", http_password=PASSWORD), host).is_open


@pytest.mark.parametrize("half", [Settings(http_user="ann"), Settings(http_password=PASSWORD)])
def test_a_user_without_a_password_is_refused(half: Settings) -> None:
    """Half of a login is a mistake, not an open door."""
    with pytest.raises(InputError, match="belong together"):
        Access.of(half, "127.0.0.1")


def test_the_token_opens_and_nothing_else_does() -> None:
    """With a token alone: that one, in whatever case its scheme is written; no password, no part of it, no other header."""
    access = Access(token=TOKEN)
    assert access.allows(f"Bearer {TOKEN}", None) and access.allows(f"bearer  {TOKEN} ", "anywhere")
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        f"Token {TOKEN}",
        basic("", ""),
        basic("x", TOKEN),
        "Basic %%%",
    ):
        assert not access.allows(header, "127.0.0.1")


def test_name_and_password_open_and_nothing_else_does() -> None:
    """With a user alone: both must be right; an empty token opens nothing."""
    access = Access(user="ann", password=PASSWORD)
    assert access.allows(basic("ann", PASSWORD), None)
    for header in (basic("ann", "pass"), basic("bob", PASSWORD), basic("ann", ""), "Bearer ", "Bearer", "Basic YW5u", "Basic " + "é", None):
        assert not access.allows(header, "127.0.0.1")


def test_where_both_are_set_either_opens() -> None:
    """A machine shows the token, a person the password."""
    access = Access(TOKEN, "ann", PASSWORD)
    assert access.allows(basic("ann", PASSWORD), None) and access.allows(f"Bearer {TOKEN}", None)
    assert not access.allows(basic("ann", TOKEN), None)


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_no_header_breaks_it(text: str) -> None:
    """Whatever comes is answered with yes or no."""
    access = Access(TOKEN, "ann", PASSWORD)
    assert not access.allows(text, text)
    assert not access.allows("Basic " + text, text)
    assert not access.allows("Bearer " + text, text)
    assert isinstance(Access().allows(text, text), bool)


def test_a_foreign_name_that_leads_here_is_refused() -> None:
    """Without a login the Host must be this machine's, so that no web page reads along by a name of its own."""
    for here in ("127.0.0.1:9464", "localhost", "LOCALHOST:1", "[::1]:80", "127.8.0.1"):
        assert Access().allows(None, here)
    for host in (None, "", "shop.example:9464", "127.0.0.1.example", "[::1", "10.0.0.1"):
        assert not Access().allows(None, host)


def test_no_secret_is_shown() -> None:
    """Neither token nor password is in a repr."""
    shown = repr(Access(TOKEN, "ann", PASSWORD))
    assert TOKEN not in shown and PASSWORD not in shown
    assert is_loopback("::1") and not is_loopback("example")
