"""No secret gets out: not by a setting that is shown, nor by what is logged, printed as an error, or raised."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streams import masking
from streams.masking import Formatter, hidden
from streams.settings import ABOUT, SECRETS, load_settings, variable

ROOT = Path(__file__).parents[2]
GIVEN = {name: f"s3cret/{name}@:%41" for name in SECRETS}
URL = "redis://ann:s3cret%2Furl@h:6379"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets that a test tells are forgotten after it."""
    monkeypatch.setattr(masking, "_secrets", set())


def headstart(*arguments: str, folder: Path) -> str:
    """All that a command says, with every secret in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")}
    environment |= {variable(name): value for name, value in GIVEN.items()} | {"HEADSTART_REDIS": URL, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_every_setting_that_is_named_like_a_secret_is_one() -> None:
    """A password, token or secret is marked, so that it has a file, is hidden, and is in these tests; nothing else is."""
    assert set(SECRETS) == {name for name in ABOUT if any(word in name for word in ("password", "token", "secret"))}


def test_config_shows_that_a_secret_is_set_and_not_what_it_is(tmp_path: Path) -> None:
    """`headstart config`, explained and as JSON."""
    said = headstart("config", "--explain", "--json", "config.json", folder=tmp_path) + (tmp_path / "config.json").read_text()
    assert "s3cret" not in said
    assert all(json.loads((tmp_path / "config.json").read_text())[name]["value"] == "***" for name in SECRETS)


def test_an_error_and_a_bugs_traceback_hide_secrets(tmp_path: Path) -> None:
    """Whatever exception quotes one, the one line or the traceback that a command ends with does not."""
    code = (
        "import sys, streams.cli, streams.commands.config as c\n"
        "from features.errors import InputError\n"
        "def show(*_, **__):\n"
        "    from streams.settings import load_settings\n"
        "    s = load_settings()\n"
        "    raise (InputError if sys.argv[1] == 'error' else ValueError)(f'cannot reach {s.redis} as {s.sasl_password} or s3cret/url')\n"
        "c.load_settings = show\n"
        "streams.cli.main(['config'])\n"
    )
    environment = {**os.environ, **{variable(name): value for name, value in GIVEN.items()}, "HEADSTART_REDIS": URL}
    for kind in ("error", "bug"):
        done = subprocess.run([sys.executable, "-c", code, kind], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "cannot reach redis://ann:***@h:6379 as *** or ***" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


def test_the_log_hides_secrets_also_in_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message, its arguments and an exception's text, of our loggers and of libraries'."""
    for name, value in {**GIVEN, "redis": URL}.items():
        monkeypatch.setenv(variable(name), value)
    settings = load_settings()
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(Formatter("%(message)s"))
    logger = logging.getLogger("test.masking")
    logger.addHandler(handler)
    try:
        logger.error("%s and %r", settings.redis_password, {"p": settings.http_token})
        try:
            raise OSError(f"no way to {settings.redis}")
        except OSError:
            logger.exception("failed with %s", settings.ssl_key_password)
    finally:
        logger.removeHandler(handler)
    assert "s3cret" not in out.getvalue()
    assert "failed with ***" in out.getvalue()
    assert "OSError: no way to redis://ann:***@h:6379" in out.getvalue()


def test_a_short_secret_does_not_take_the_text_with_it() -> None:
    """What is shorter than four characters is not searched for."""
    masking.remember("a")
    assert hidden("a table") == "a table"
