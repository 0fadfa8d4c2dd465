"""The table of rights: whole, least, and equal to the page in docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import InputError
from streams import cli
from streams.rights import ROLES, Right, kafka_rights, redis_user
from streams.topics import NAMES, TOPICS, broker_names

ROOT = Path(__file__).parents[2]


def said(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `headstart rights` prints."""
    cli.command_line().main(["rights", *arguments], standalone_mode=False)
    return capsys.readouterr().out


def test_the_page_in_docs_is_the_commands_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """docs/rights.md is `headstart rights --markdown`; run it again after a change of the tables."""
    monkeypatch.chdir(tmp_path)
    assert said("--markdown", capsys=capsys) == (ROOT / "docs" / "rights.md").read_text(encoding="utf-8")


def test_every_topic_is_written_and_read_by_roles_that_there_are() -> None:
    """No topic without a writer and a reader, and no role that nobody knows."""
    for spec in TOPICS:
        assert spec.writers and spec.readers
        assert {*spec.writers, *spec.readers} <= ROLES.keys()


def test_only_publishers_write_events_and_only_workers_scores() -> None:
    """What matters most: who can make up events, and who can make up scores."""
    names = broker_names()
    writers = {name: {role for role in ROLES if Right("topic", name, "Write") in kafka_rights(role, names, "g")} for name in NAMES}
    assert all(writers[kind] == {"publisher"} for kind in ("browse", "click", "cart", "order"))
    assert writers["scores"] == {"worker"}
    assert {role for role in ROLES if "set" in ROLES[role].redis} == {"worker", "learner", "operator"}


def test_names_prefix_namespace_and_users_are_the_shops(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed commands have the topics', the group's and the users' own names, quoted for a shell."""
    out = said("--namespace", "eu", "--set", "topic_prefix=shop.", "--as", "publisher=CN=till 1,O=Shop", "--as", "worker=hs", capsys=capsys)
    assert "--allow-principal 'User:CN=till 1,O=Shop' --operation Write --topic shop.browse" in out
    assert "--allow-principal User:hs --operation Read --group headstart-eu" in out
    assert out.count("ACL SETUSER hs reset on '>PASSWORD' '~hs:eu:*'") == 1
    with pytest.raises(InputError, match="there is no role 'reader'"):
        said("--as", "reader=x", capsys=capsys)
    with pytest.raises(InputError, match="ROLE=USER"):
        said("--as", "worker", capsys=capsys)


def test_a_role_without_redis_has_no_user_there() -> None:
    """Publishers and consumers need Kafka alone."""
    assert redis_user("publisher", "p", "live") == redis_user("consumer", "c", "live") == []
