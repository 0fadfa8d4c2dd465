"""A Kafka that lets nobody in without a name: each role does its work with its own rights, and nobody does anything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from features.errors import DependencyDown, HeadstartError, InputError, Mismatch
from features.events import Event, encode
from streams import cli, namespace
from streams.at_rest import cursors_of, unlearned
from streams.embedded import EmbeddedValkey
from streams.kafka_access import client_config
from streams.offline import put_launches
from streams.publisher import Outgoing, publish_records
from streams.records import Launch
from streams.replay import read_topic
from streams.rights import redis_user
from streams.settings import Settings, as_environment, with_changes
from streams.topics import broker_names, create_topics
from tests.certificates import Certificates
from tests.integration.harness import FEW, Job, fresh_name, wait_until
from tests.integration.worlds import LIVE_WINDOW_MS
from tests.kafka_server import KafkaServer, SecureKafka

pytestmark = [pytest.mark.java, pytest.mark.timeout(300), pytest.mark.xdist_group("secure_kafka")]

USERS = {name: f"{name}-pa55/w:rd" for name in ("admin", "publisher", "worker", "consumer", "dashboard", "marketer", "operator", "stranger")}
SHOPPERS = 30


@pytest.fixture(scope="module")
def kafka(kafka_home: Path, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """The broker."""
    with SecureKafka(kafka_home, tmp_path_factory.mktemp("secure-kafka"), certificates, USERS) as server:
        yield server


@pytest.fixture(scope="module")
def base(kafka: SecureKafka, certificates: Certificates) -> Settings:
    """Settings of a namespace whose topics and rights an operator has made with our own commands; without a user yet."""
    name = fresh_name()
    settings = with_changes(
        Settings(broker=kafka.address, namespace=name, topic_prefix=f"{name}.", security_protocol="SASL_SSL", ssl_cafile=str(certificates.authority)),
        **{**FEW, "tick_ms": 200, "grace_ms": 200, "partitions": 2},
    )
    run_as(as_user(settings, "admin"), ["rights", "--apply"])
    run_as(as_user(settings, "operator"), ["topics", "create"], ["topics", "check"])
    return settings


def as_user(settings: Settings, user: str) -> Settings:
    """The same settings for a user."""
    return with_changes(settings, sasl_username=user, sasl_password=USERS[user])


def run_as(settings: Settings, *commands: list[str]) -> None:
    """Run commands of ours with these settings in the environment. Raises what they do."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, text in as_environment(settings).items():
            patch.setenv(variable, text)
        for arguments in commands:
            cli.command_line().main(arguments, standalone_mode=False)


def browses() -> list[Outgoing]:
    """A browse of each shopper, now."""
    ts = time.time_ns() // 1_000_000
    events = (Event(event_id=f"e{i}", user_id=f"u{i}", product_id="p", line="launch", ts=ts) for i in range(SHOPPERS))
    return [Outgoing("browse", event.user_id.encode(), encode(event)) for event in events]


def publish(settings: Settings) -> int:
    """Send the browses."""
    topics = broker_names(settings.topic_prefix)
    return sum(publish_records(settings.broker, browses(), topics, client_config=client_config(settings), delivery_timeout_s=5).values())


async def at_rest(settings: Settings) -> bool:
    """Whether no exposure is open and all that was told is learned, so that partitions may be divided anew."""
    store = namespace.open_store(settings)
    try:
        still = [len((await store.load(str(p), ("pending",))).hashes["pending"]) for p in range(settings.partitions)]
        cursors = await cursors_of(store, settings.partitions, settings.outcome_partitions)
        return not any(still) and not await unlearned(store, cursors, settings.outcome_partitions)
    finally:
        await store.close()


def test_each_role_does_its_work(base: Settings, quick_trunk: Path, tmp_path: Path) -> None:
    """Worker, publisher, consumer, dashboard, marketer and operator, each with its own user in Kafka and in Redis, do what they are for; no log, at any level, holds a secret."""
    users = {role: " ".join(redis_user(role, role, base.namespace)[3:]).replace("PASSWORD", USERS[role]) for role in ("worker", "marketer", "operator")}
    acl = tmp_path / "users.acl"
    acl.write_text("user default on nopass -@all +ping +info\n" + "".join(f"user {name} {rules}\n" for name, rules in users.items()))
    with EmbeddedValkey(config={"aclfile": str(acl)}) as valkey:
        secret = tmp_path / "password"
        secret.write_text(USERS["worker"] + "\n")
        settings = with_changes(base, redis=valkey.url, redis_username="worker", redis_password=USERS["worker"], trunk=quick_trunk, log_level="DEBUG")
        marketer, operator = (
            with_changes(as_user(settings, user), redis_username=user, redis_password=USERS[user], log_level="WARNING") for user in ("marketer", "operator")
        )

        async def launch() -> None:
            store = namespace.open_store(operator)
            try:
                await put_launches(store, [Launch(id="launch", line="launch", window_s=LIVE_WINDOW_MS / 1000, holdout=0.5)])
            finally:
                await store.close()

        asyncio.run(launch())
        with Job(as_user(settings, "worker"), tmp_path) as job:
            (worker,) = job.start_ready(1)
            assert publish(as_user(base, "publisher")) == SHOPPERS
            found: set[bytes] = set()

            def scored() -> bool:
                found.update(value for _, value in read_topic(as_user(base, "consumer"), "scores"))
                return len(found) >= SHOPPERS

            wait_until(scored, "all are scored", log=job.log, poll_s=0.2)
            wait_until(lambda: any(read_topic(as_user(base, "dashboard"), "outcomes")), "an outcome", log=job.log, poll_s=0.5)
            wait_until(lambda: asyncio.run(at_rest(operator)), "each exposure has its label and is learned", log=job.log, poll_s=0.5)
            assert job.stop(worker) == 0
            said = job.log.read_text()
        campaign, file = tmp_path / "campaign.csv", str(tmp_path / "state.backup")
        run_as(marketer, ["audience", "launch", "--top", "100%", "--out", str(campaign)], ["uplift", "launch"])
        with pytest.raises(InputError, match="refuses this user"):
            run_as(marketer, ["launch", "close", "launch"])
        assert 0 < len(campaign.read_text().splitlines()) - 1 < SHOPPERS, "the holdout is left out"
        run_as(
            operator, ["ledger"], ["cursor", "show"], ["erase", "u0", "--yes"], ["ledger"], ["backup", file], ["restore", file, "--replace"], ["repartition", "--partitions", "3", "--backup", f"{file}-2"],
        )  # fmt: skip
        assert "DEBUG" in said
        assert not [name for name, password in USERS.items() if password in said]


def test_rights_that_the_broker_does_not_take_are_one_line(real_kafka: KafkaServer) -> None:
    """A Kafka without an authorizer, as every new one is, says so."""
    with pytest.raises(InputError, match="does not take the rights: SecurityDisabled"):
        run_as(Settings(broker=real_kafka.address), ["rights", "--apply"])


def test_a_certificate_is_a_name_too(base: Settings, kafka: SecureKafka, certificates: Certificates, tmp_path: Path) -> None:
    """With TLS client certificates alone, an event is published and the score topic read; a certificate without rights, and none at all, do nothing."""
    certificate, key = certificates.client("shop", password="k3y-password")
    subject = certificates.subject("shop")
    run_as(as_user(base, "admin"), ["rights", "--apply", "--as", f"publisher={subject}"])
    with_certificate = with_changes(
        base, broker=kafka.certificates_address, security_protocol="SSL", ssl_certfile=str(certificate), ssl_keyfile=str(key),
        ssl_key_password="k3y-password",
    )  # fmt: skip
    assert publish(with_certificate) == SHOPPERS
    other, other_key = certificates.client("stranger")
    with pytest.raises(HeadstartError):
        publish(with_changes(with_certificate, ssl_certfile=str(other), ssl_keyfile=str(other_key), ssl_key_password=""))
    with pytest.raises(HeadstartError):
        publish(with_changes(with_certificate, ssl_certfile="", ssl_keyfile="", ssl_key_password=""))
    with pytest.raises(InputError, match="ssl_key_password"):
        publish(with_changes(with_certificate, ssl_key_password=""))


def reads(topic: str) -> Callable[[Settings], object]:
    """Reading all of a topic."""
    return lambda settings: list(read_topic(settings, topic))


def creates(settings: Settings) -> None:
    """Making the topics of another prefix."""
    create_topics(settings.broker, prefix="mine.", partitions=1, outcome_partitions=1, client_config=client_config(settings))


@pytest.mark.parametrize(
    ("user", "does"),
    [
        ("publisher", reads("scores")), ("publisher", reads("browse")), ("publisher", creates),
        ("consumer", publish), ("consumer", reads("outcomes")), ("consumer", reads("order")),
        ("dashboard", publish), ("dashboard", reads("browse")),
        ("worker", publish), ("worker", reads("scores")), ("worker", creates),
        ("stranger", reads("scores")), ("stranger", publish),
    ],
)  # fmt: skip
def test_a_role_does_nothing_else(base: Settings, user: str, does: Callable[[Settings], object]) -> None:
    """What the table of rights does not name is refused, with a line and without waiting."""
    with pytest.raises((InputError, DependencyDown, Mismatch)) as refused:
        does(as_user(base, user))
    assert USERS[user] not in str(refused.value)


@pytest.mark.parametrize("does", [publish, reads("scores"), creates])
def test_a_client_that_proves_nothing_does_nothing(base: Settings, does: Callable[[Settings], object], tmp_path: Path) -> None:
    """TLS without a password, a guessed password, and a broker whose certificate is another authority's: each ends at once, in one line that says why."""
    guessing = with_changes(base, sasl_username="publisher", sasl_password="guess-it")
    deceived = with_changes(as_user(base, "publisher"), ssl_cafile=str(Certificates(tmp_path).authority))
    for settings, why in (
        (with_changes(base, security_protocol="SSL"), "hangs up"), (guessing, "refuses the user 'publisher'"), (deceived, "certificate .* is not trusted"),
    ):  # fmt: skip
        with pytest.raises((InputError, DependencyDown), match=why) as refused:
            does(settings)
        assert "\n" not in str(refused.value)
        assert "guess-it" not in str(refused.value)


def test_a_client_in_plain_text_does_nothing(base: Settings) -> None:
    """Without TLS and a name, as our own defaults are, nothing is sent; the line names the setting."""
    with pytest.raises(DependencyDown, match="security_protocol"):
        publish(with_changes(base, security_protocol="PLAINTEXT", ssl_cafile=""))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_both_mechanisms_let_a_user_in(base: Settings, mechanism: str) -> None:
    """PLAIN and SCRAM-SHA-512 over TLS."""
    assert publish(with_changes(as_user(base, "publisher"), sasl_mechanism=mechanism)) == SHOPPERS
