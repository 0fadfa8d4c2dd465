"""Settings: every source, their order, the messages, and that no secret is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from features.errors import InputError
from streams import topics
from streams.setting_values import masked, shown
from streams.settings import (
    ABOUT,
    SECRETS,
    TOPICS,
    Settings,
    as_environment,
    child_environment,
    default,
    for_a_shell,
    load_settings,
    origins,
    unused_variables,
    variable,
    with_changes,
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a headstart.toml, as the current one, and an environment without HEADSTART_*."""
    for name in [*unused_variables(), *map(variable, ABOUT), "HEADSTART_CONFIG"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "headstart.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_source_every_value_is_its_default() -> None:
    """No file, no environment, no options: the defaults hold, and say so."""
    settings = load_settings()
    assert (settings.namespace, settings.partitions, settings.learn_share, settings.trunk) == ("live", 12, 1.0, Path("var/trunk"))
    assert set(origins(settings).values()) == {"default"}


def test_every_default_is_a_value_that_its_own_form_reads() -> None:
    """A default written out and read back is the same value; only those that must be given are empty."""
    for name, about in ABOUT.items():
        if default(name) == "" and name in {"broker", "redis"}:
            continue
        assert about.form.read(shown(default(name))) == default(name), name


def test_options_win_over_environment_over_file(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source overrides the one below it, and the origin names the one that won."""
    write(empty_folder, 'partitions = 3\nreplication = 3\nnamespace = "file"\ntimezone = "Europe/Berlin"')
    monkeypatch.setenv("HEADSTART_REPLICATION", "4")
    monkeypatch.setenv("HEADSTART_NAMESPACE", "environment")
    settings = load_settings(assignments=["timezone=UTC", "namespace=set"], namespace="option", broker=None)
    assert (settings.partitions, settings.replication, settings.namespace, settings.timezone) == (3, 4, "option", "UTC")
    came_from = origins(settings)
    assert came_from["partitions"] == "file headstart.toml"
    assert came_from["replication"] == "environment HEADSTART_REPLICATION"
    assert came_from["namespace"] == "option --namespace"
    assert came_from["timezone"] == "option --set timezone"
    assert came_from["broker"] == "default"


def test_a_named_file_is_read_instead_of_the_one_here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config` wins over HEADSTART_CONFIG, which wins over headstart.toml."""
    write(empty_folder, "partitions = 1")
    monkeypatch.setenv("HEADSTART_CONFIG", str(write(empty_folder, "partitions = 2", "two.toml")))
    assert load_settings().partitions == 2
    assert load_settings(write(empty_folder, "partitions = 3", "three.toml")).partitions == 3


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty variables for what is not set."""
    monkeypatch.setenv("HEADSTART_BROKER", "")
    assert origins(load_settings())["broker"] == "default"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("partitions", "x", "expected an integer from 1 to 10000, got 'x'"),
        ("partitions", "0", "expected an integer from 1 to 10000, got '0'"),
        ("max_pending", "1.5", "expected an integer ≥ 1, got '1.5'"),
        ("learn_share", "nan", "expected a number from 0 to 1, got 'nan'"),
        ("learn_share", "1.01", "expected a number from 0 to 1, got '1.01'"),
        ("durability", "disc", "expected one of memory, disk, replica, got 'disc'"),
        ("partitioner_check", "maybe", "expected on or off, got 'maybe'"),
        ("broker", "localhost", "expected HOST:PORT[,HOST:PORT…], got 'localhost'"),
        ("broker", "a:1,,b:2", "expected HOST:PORT[,HOST:PORT…], got 'a:1,,b:2'"),
        ("broker", "a:70000", "expected HOST:PORT[,HOST:PORT…], got 'a:70000'"),
        ("redis", "localhost:6379", "expected redis://[USER@]HOST:PORT[/DB], rediss://… or unix:///PATH, got 'localhost:6379'"),
        ("namespace", "a{b}", "expected 1 to 64 letters, digits, _ or -, got 'a{b}'"),
        ("timezone", "Mars/Olympus", "expected a time zone such as UTC or Europe/Berlin, got 'Mars/Olympus'"),
        ("timezone", "../etc/passwd", "expected a time zone such as UTC or Europe/Berlin, got '../etc/passwd'"),
        ("topic_names", "browse=a,click=a", "expected different Kafka topic names by topic"),
        ("topic_names", "views=a", "(topics: browse, click, cart, order"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_source(name: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting, where it came from, what was expected and what came."""
    monkeypatch.setenv(variable(name), text)
    with pytest.raises(InputError) as error:
        load_settings()
    assert f"setting {name!r} from environment {variable(name)}: " in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize("value", ["true", "12.0", "[12]", '"twelve"'])
def test_a_file_with_a_value_of_the_wrong_type_is_refused(value: str, empty_folder: Path) -> None:
    """TOML's own types are checked: true is not 1, and 12.0 is not 12."""
    write(empty_folder, f"partitions = {value}")
    with pytest.raises(InputError, match=r"setting 'partitions' from file headstart\.toml: expected an integer"):
        load_settings()


def test_an_unknown_key_in_the_file_names_the_nearest(empty_folder: Path) -> None:
    """A misspelt key is an error, not silence."""
    write(empty_folder, "partition = 3")
    with pytest.raises(InputError, match="there is no setting 'partition'; did you mean 'partitions'"):
        load_settings()


def test_a_missing_or_broken_file_is_one_line(empty_folder: Path) -> None:
    """A named file that is not there, and one that is not TOML."""
    with pytest.raises(InputError, match=r"gone.toml cannot be read: No such file"):
        load_settings(Path("gone.toml"))
    write(empty_folder, "partitions = ")
    with pytest.raises(InputError, match=r"headstart.toml is not TOML: "):
        load_settings()


def test_what_is_needed_and_missing_says_how_to_give_it() -> None:
    """A command that needs the broker names the three ways to give one."""
    with pytest.raises(InputError, match=r"setting 'redis' is missing, and has no default: give --redis, HEADSTART_REDIS, or redis in headstart.toml"):
        load_settings(needs=("broker", "redis"), broker="127.0.0.1:9092")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [("partitions", "expected NAME=VALUE"), ("tickms=5", "did you mean 'tick_ms'"), ("tick_ms=1", "from option --set tick_ms")],
)
def test_a_wrong_assignment_is_refused(assignment: str, expected: str) -> None:
    """`--set` needs a known name and a valid value."""
    with pytest.raises(InputError, match=expected):
        load_settings(assignments=[assignment])


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_no_option_but_its_file_is(name: str, tmp_path: Path) -> None:
    """`ps` shows a command's options to everybody: the line names the variable and the file's setting, and does not repeat the secret."""
    for given in (f"{name}=hunter2hunter2", name, f"{name.replace('_', '-')}=hunter2hunter2"):
        with pytest.raises(InputError) as refused:
            load_settings(assignments=[given])
        said = str(refused.value)
        assert f"HEADSTART_{name.upper()}" in said
        assert f"{name}_file" in said
        assert "hunter2" not in said
        assert "\n" not in said
    (tmp_path / "secret").write_text("hunter2hunter2\n", encoding="utf-8")
    assert getattr(load_settings(assignments=[f"{name}_file={tmp_path / 'secret'}"]), name) == "hunter2hunter2"


def test_an_override_that_is_no_setting_is_a_bug() -> None:
    """A command that passes an unknown name fails loudly."""
    with pytest.raises(TypeError, match="brokers"):
        load_settings(brokers="a:1")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://shop:s3cr@t/x@cache:6379/1", "redis://shop:***@cache:6379/1"),
        ("rediss://:s3cret@cache:6379", "rediss://:***@cache:6379"),
        ("redis://cache:6379/0?password=s3cret&x=1", "redis://cache:6379/0?password=***&x=1"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
    ],
)
def test_a_password_in_a_url_is_masked(url: str, expected: str) -> None:
    """Only the password goes; odd characters in it do not let a part of it out."""
    assert masked("redis", url) == expected


def test_what_a_person_is_told_to_set_holds_no_secret() -> None:
    """Settings as words for a shell, quoted; a secret, and an address with a password in it, are named and left out."""
    told = for_a_shell(Settings(broker="k:9092", topic_prefix="a b.", sasl_password="hunter2hunter2", redis="redis://u:hunter2hunter2@r:6379", partitions=3))
    assert "hunter2" not in told
    assert "HEADSTART_TOPIC_PREFIX='a b.'" in told
    assert {"HEADSTART_BROKER=k:9092", "HEADSTART_PARTITIONS=3", "HEADSTART_SASL_PASSWORD=…", "HEADSTART_REDIS=…"} <= set(told.split())


def test_a_child_has_its_parents_settings_whatever_lies_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings file in the folder and variables in the environment, which the parent has overruled, are not read again by a child."""
    (tmp_path / "headstart.toml").write_text('timezone = "Europe/Berlin"\n')
    (tmp_path / "token").write_text("t0ken-t0ken")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_HTTP_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("HEADSTART_PARTITIONS", "7")
    parent = load_settings(assignments=["timezone=UTC", "partitions=12"])
    given = child_environment(parent)
    for name in [name for name in os.environ if name.startswith("HEADSTART_")]:
        monkeypatch.delenv(name)
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    child = load_settings()
    assert {name: getattr(child, name) for name in ABOUT} == {name: getattr(parent, name) for name in ABOUT}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_wrong_kind_is_not_shown(name: str, tmp_path: Path) -> None:
    """A number in the settings file where a text is expected."""
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = 123456789\n")
    with pytest.raises(InputError) as refused:
        load_settings(file)
    assert "123456789" not in str(refused.value)


def test_a_value_named_like_a_secret_is_masked_whole() -> None:
    """A later setting such as sasl_password needs no code of its own."""
    assert masked("sasl_password", "x") == masked("api_token", "x") == "***"
    assert masked("sasl_password", "") == ""


def test_no_secret_is_in_repr_or_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `repr` nor an error's text holds the password."""
    monkeypatch.setenv("HEADSTART_REDIS", "redis://u:s3cret@h:6379")
    assert "s3cret" not in repr(load_settings())
    monkeypatch.setenv("HEADSTART_REDIS", "http://u:s3cret@h:6379")
    with pytest.raises(InputError, match="expected redis://") as error:
        load_settings()
    assert "s3cret" not in str(error.value)


def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`as_environment` written into the environment is read back to equal settings, secrets included."""
    monkeypatch.setenv("HEADSTART_REDIS", "redis://u:pw@h:1")
    given = load_settings(broker="a:1,[::1]:2", topic_names={"browse": "shop.views"}, partitioner_check=False, learn_share=0.123456789)
    for name, text in as_environment(given).items():
        monkeypatch.setenv(name, text)
    assert load_settings() == given


def test_topic_names_are_read_from_a_table_or_a_text(empty_folder: Path) -> None:
    """The file has a table; the environment has pairs."""
    write(empty_folder, '[topic_names]\norder = "shop.orders"\nbrowse = "shop.views"')
    from_file = load_settings().topic_names
    assert from_file == load_settings(assignments=["topic_names=browse=shop.views, order=shop.orders"]).topic_names
    assert list(from_file) == ["browse", "order"]


def test_a_changed_setting_says_that_the_program_set_it() -> None:
    """`with_changes` keeps the other origins."""
    settings = with_changes(load_settings(partitions=3), namespace="replay-1")
    assert (origins(settings)["partitions"], origins(settings)["namespace"]) == ("option --partitions", "this command")


def test_the_topics_that_can_be_named_are_those_of_the_topic_table() -> None:
    """The settings know the topics without importing the Kafka client; both lists are one."""
    assert TOPICS == topics.NAMES


def test_a_secret_may_come_from_a_file(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME_file in any source reads the secret from a file, without the newline at its end, and the origin names the file."""
    for name in SECRETS:
        write(empty_folder, f"s3cret of {name} \n", name)
    write(empty_folder, 'sasl_password_file = "sasl_password"')
    monkeypatch.setenv("HEADSTART_REDIS_PASSWORD_FILE", str(empty_folder / "redis_password"))
    settings = load_settings(assignments=["http_token_file=http_token"])
    assert settings.sasl_password == "s3cret of sasl_password "
    assert (settings.redis_password, settings.http_token) == ("s3cret of redis_password ", "s3cret of http_token ")
    assert origins(settings)["sasl_password"] == "file sasl_password (file headstart.toml)"
    assert unused_variables() == []
    assert "s3cret" not in repr(settings)


def test_a_secrets_file_that_cannot_be_read_is_one_line(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file is named; a secret that is given itself and as a file is refused; what is no secret has no file."""
    monkeypatch.setenv("HEADSTART_SASL_PASSWORD_FILE", "missing")
    with pytest.raises(InputError, match="HEADSTART_SASL_PASSWORD_FILE: missing cannot be read: No such file"):
        load_settings()
    monkeypatch.setenv("HEADSTART_SASL_PASSWORD", "s3cret")
    with pytest.raises(InputError, match="gives both sasl_password and sasl_password_file") as error:
        load_settings()
    assert "s3cret" not in str(error.value)
    monkeypatch.delenv("HEADSTART_SASL_PASSWORD_FILE")
    with pytest.raises(InputError, match="there is no such setting"):
        load_settings(assignments=["broker_file=x"])


@pytest.mark.parametrize(
    ("text", "expected"), [("9464", "127.0.0.1:9464"), (":0", "127.0.0.1:0"), ("0.0.0.0:80", "0.0.0.0:80"), ("[::1]:80", "[::1]:80"), ("", "")]
)
def test_an_address_without_a_host_is_loopbacks(text: str, expected: str) -> None:
    """A port alone can be reached from this machine only."""
    assert load_settings(assignments=[f"http_address={text}"]).http_address == expected


@pytest.mark.parametrize("text", ["localhost", "a:b", "1:2:3", "70000", "[::1]"])
def test_an_address_without_a_port_is_refused(text: str) -> None:
    """The port must be said."""
    with pytest.raises(InputError, match="HOST:PORT"):
        load_settings(assignments=[f"http_address={text}"])
