"""`headstart launch`: what is added is listed and shown as it was given, ends when it is closed, and what cannot be is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from features.redis_store import RedisStore
from models.checkpoint import save
from streams import cli
from tests.builders import make_artifact
from tests.integration.harness import fresh_name


@pytest.fixture
def at(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk, and a namespace that no worker has joined yet, in the environment."""
    save(make_artifact("books", "audio"), tmp_path / "trunk")
    for name, value in (("REDIS", redis_url), ("NAMESPACE", fresh_name()), ("TRUNK", str(tmp_path / "trunk"))):
        monkeypatch.setenv(f"HEADSTART_{name}", value)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `headstart launch`."""
    with pytest.raises(SystemExit) as ended:
        cli.main(("launch", *arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.usefixtures("at")
def test_a_launch_from_its_beginning_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Products, holdout and a share of its own are kept as they were given; without a share the namespace's holds."""
    given = ("--line", "books", "--product", "b", "--product", "a", "--holdout", "0.1", "--learn-share", "0.5", "--from", "1700000000000")
    assert run(capsys, "add", "novel", *given)[:2] == (
        0,
        "launch novel: products a, b of line books (a line that the trunk was trained on), from 1700000000000 ms on\n",
    )
    assert "never seen" in run(capsys, "add", "toys", "--line", "toys")[1]
    code, out, _ = run(capsys, "list", "--json", "-")
    assert code == 0
    novel, toys = sorted(json.loads(out), key=lambda launch: launch["id"])
    assert str(novel["from_ms"]) in run(capsys, "list")[1]
    assert (novel["products"], novel["holdout"], novel["learn_share"], novel["closed_ms"]) == (["a", "b"], 0.1, 0.5, None)
    assert (toys["products"], toys["holdout"], toys["learn_share"]) == ([], 0.0, None)
    shown = run(capsys, "show", "novel")[1]
    assert "learn_share 0.5\n" in shown
    assert "closed_ms   None\n" in shown
    assert run(capsys, "close", "novel")[0] == 0
    assert "closed_ms   None\n" not in run(capsys, "show", "novel")[1]


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "x", "--line", "books", "--learn-share", "0"), "--learn-share 0.0: expected a share above 0, up to 1"),
        (("add", "x", "--line", "books", "--learn-share", "1.5"), "--learn-share 1.5: expected a share above 0, up to 1"),
        (("add", "x", "--line", "books", "--learn-share", "nan"), "--learn-share nan: expected a share above 0, up to 1"),
        (("add", "x", "--line", "books", "--from", "1795824000"), "--from 1795824000: is it in seconds? In milliseconds it is on 1970-01-21"),
        (("add", "x", "--line", "books", "--holdout", "1"), "--holdout 1.0: expected a share from 0 to below 1"),
        (("add", "line:x", "--line", "books"), "a launch cannot be called 'line:x'"),
        (("add", "x", "--line", ""), "--line '': expected 1 to 128 characters"),
        (("add", "x", "--line", "books", "--product", ""), "--product '': expected 1 to 256 characters"),
        (("show", "nobody"), "nobody"),
        (("close", "nobody"), "nobody"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A share outside its bounds, a name that is taken for something else, a launch that is not there."""
    code, _, error = run(capsys, *arguments)
    assert code != 0
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.usefixtures("at")
def test_a_namespace_that_nobody_has_joined_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be misspelt: a launch is added there all the same, with a note, and a list of none says why; with a worker there is no note."""
    name = os.environ["HEADSTART_NAMESPACE"]
    code, out, said = run(capsys, "list", "--json", "-")
    assert (code, json.loads(out), said) == (0, [], f"namespace {name!r} is empty: no worker has joined it yet\n")
    code, out, said = run(capsys, "add", "novel", "--line", "books")
    assert (code, said) == (0, f"note: namespace {name!r} has no worker yet; the launch waits for one\n")
    assert run(capsys, "list")[2] == ""
    monkeypatch.setattr(RedisStore, "meta", AsyncMock(return_value={"clock": "live", "partitions": "1", "outcome_partitions": "1"}))
    assert run(capsys, "add", "second", "--line", "books")[::2] == (0, "")
