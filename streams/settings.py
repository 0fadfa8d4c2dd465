"""Every setting: what it means, its unit, its default, and where its value came from.

The class `Settings` is the one table. A value comes, in increasing precedence, from its default, from a TOML file
(`headstart.toml` in the current folder, or the one that `--config` or HEADSTART_CONFIG names), from the environment
(HEADSTART_ and the name in capitals; an empty variable counts as absent), and from options. A secret is no option: whoever lists
the machine's processes sees it. It may also be read from a file of its own, named in any of these places by the secret's name with
_file after it (HEADSTART_SASL_PASSWORD_FILE).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

from features.errors import InputError
from streams import masking
from streams.setting_values import (
    Form,
    address,
    anything,
    brokers,
    mapping,
    masked,
    number,
    one_of,
    path,
    prefix,
    redis_url,
    short_name,
    shown,
    switch,
    verbatim,
    whole,
    zone,
)  # fmt: skip

TOPICS: Final = ("browse", "click", "cart", "order", "scores", "outcomes", "heads", "alerts", "rejected")
ENVIRONMENT_PREFIX: Final = "HEADSTART_"
CONFIG_VARIABLE: Final = "HEADSTART_CONFIG"
DEFAULT_FILE: Final = "headstart.toml"

DAY_S = 86_400


@dataclass(frozen=True)
class About:
    """What a setting is for, how it is read, and its unit ("" where it has none). A secret is never shown, and may come from a file."""

    text: str
    form: Form
    unit: str = ""
    secret: bool = False


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """All settings of one process. Made by `load_settings`; `came_from` says of each value where it came from."""

    broker: Annotated[str, About("Kafka brokers to start from", brokers)] = ""
    security_protocol: Annotated[
        str, About("how Kafka is spoken to", one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    ] = "PLAINTEXT"  # fmt: skip
    sasl_mechanism: Annotated[
        str, About("how the user proves itself to Kafka, with SASL_…", one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"))
    ] = "SCRAM-SHA-512"  # fmt: skip
    sasl_username: Annotated[str, About("user of Kafka", anything)] = ""
    sasl_password: Annotated[str, About("its password", verbatim, secret=True)] = ""
    ssl_cafile: Annotated[str, About("PEM file of the authorities that Kafka's certificate is checked with; the system's if empty", anything)] = ""
    ssl_certfile: Annotated[str, About("PEM file of the certificate that is shown to Kafka; none if empty", anything)] = ""
    ssl_keyfile: Annotated[str, About("PEM file of its key, if that is not in ssl_certfile", anything)] = ""
    ssl_key_password: Annotated[str, About("password of that key, if it has one", verbatim, secret=True)] = ""
    ssl_check_hostname: Annotated[bool, About("whether Kafka's certificate must name the host that was called", switch)] = True
    redis: Annotated[str, About("Redis or Valkey that keeps states, cursors and heads", redis_url)] = ""
    redis_username: Annotated[str, About("user of Redis; wins over the address's", anything)] = ""
    redis_password: Annotated[str, About("its password; wins over the address's", verbatim, secret=True)] = ""
    redis_ssl_cafile: Annotated[str, About("as ssl_cafile, for Redis (rediss://)", anything)] = ""
    redis_ssl_certfile: Annotated[str, About("as ssl_certfile, for Redis", anything)] = ""
    redis_ssl_keyfile: Annotated[str, About("as ssl_keyfile, for Redis", anything)] = ""
    redis_ssl_check_hostname: Annotated[bool, About("as ssl_check_hostname, for Redis", switch)] = True
    redis_cluster: Annotated[bool, About("the address is a node of a Redis Cluster", switch)] = False
    redis_msetex: Annotated[bool, About("write records by MSETEX: all servers, replicas too, are Redis 8.4, Valkey 9.1 or later", switch)] = False
    namespace: Annotated[str, About("prefix of every Redis key, hs:<namespace>:…", short_name)] = "live"
    topic_prefix: Annotated[str, About("prefix of every topic's name, except of those that topic_names maps", prefix)] = ""
    topic_names: Annotated[Mapping[str, str], About("a shop's own names for some of the topics", mapping(TOPICS))] = field(default_factory=dict)
    partitions: Annotated[int, About("partitions of each event topic; at most as many workers share the work", whole(1, 10_000), "partitions")] = 12
    outcome_partitions: Annotated[int, About("partitions of `outcomes`; at most as many learners share the work", whole(1, 10_000), "partitions")] = 1
    replication: Annotated[int, About("replication factor of topics that are created", whole(1, 100), "brokers")] = 1
    trunk: Annotated[Path, About("folder of the trained trunk; relative to the current folder", path)] = Path("var/trunk")
    partitioner_check: Annotated[bool, About("refuse events that lie in another partition than murmur2(user_id) says", switch)] = True
    durability: Annotated[str, About("where Redis must have a commit before its outcomes leave", one_of("memory", "disk", "replica"))] = "memory"
    tick_ms: Annotated[int, About("length of a tick, live", whole(10, 3_600_000), "ms")] = 1_000
    replay_tick_ms: Annotated[int, About("length of a tick of event time in a replay", whole(10, DAY_S * 1000), "ms")] = 900_000
    grace_ms: Annotated[int, About("how long after its end a delay bin stays open for late orders", whole(1, DAY_S * 1000), "ms")] = 60_000
    window_s: Annotated[int, About("attribution window for which a trunk is trained, unless --window is given", whole(1, 365 * DAY_S), "s")] = DAY_S
    learn_share: Annotated[
        float, About("share of the exposures that are followed to their label, but for launches that have a share of their own; all are scored", number(0, 1))
    ] = 1.0
    max_pending: Annotated[int, About("open exposures at most, over all partitions of a worker; a replay follows all", whole(1), "exposures")] = 1_000_000
    max_poll_records: Annotated[int, About("records taken from Kafka at once", whole(1, 100_000), "records")] = 4_000
    ttl_s: Annotated[int, About("a state without an event for so long reads as empty", whole(60), "s")] = 30 * DAY_S
    max_tick_events: Annotated[int, About("events of one partition in one tick of a replay, at most", whole(1), "events")] = 200_000
    future_ms: Annotated[int, About("how far ahead of the wall clock an event's time may lie", whole(0, DAY_S * 1000), "ms")] = 300_000
    timezone: Annotated[str, About("time zone of the feature hour of day", zone)] = "UTC"
    session_timeout_s: Annotated[int, About("a worker silent for so long loses its partitions", whole(1, 1800), "s")] = 10
    dependency_timeout_s: Annotated[int, About("a broker or Redis silent for so long ends the process", whole(1, DAY_S), "s")] = 60
    stall_s: Annotated[int, About("a worker that has work and gets nowhere for so long ends itself, to be started again", whole(2, DAY_S), "s")] = 180
    max_memory_mb: Annotated[int, About("a worker with more resident memory ends itself, to be started again; 0: no limit", whole(0), "MB")] = 0
    max_held_mb: Annotated[
        int, About("records that were read and wait to be worked, over all partitions of a worker, at most about so much", whole(16), "MB")
    ] = 256  # fmt: skip
    lru_users: Annotated[int, About("users whose states a worker keeps in memory", whole(1), "users")] = 100_000
    drift_actions: Annotated[bool, About("let a drift alarm reset a launch's level in part and restart one expert; alerts come all the same", switch)] = True
    explain_scores: Annotated[
        bool, About("give the transfer ledger on the score record to events with explain: true; each takes tens of milliseconds", switch)
    ] = False
    alive_file: Annotated[str, About("file that a worker touches while it gets on, for health checks; none if empty", anything)] = ""
    http_address: Annotated[
        str, About("where a worker serves /metrics, /live and /ready, HOST:PORT or PORT (of loopback; 0: any free one); nowhere if empty", address)
    ] = ""  # fmt: skip
    trace_share: Annotated[
        float, About("share of the published events that are traced (OpenTelemetry, extra otel); a worker with more than 0 goes on with them", number(0, 1))
    ] = 0.0  # fmt: skip
    http_token: Annotated[str, About("bearer token that every HTTP endpoint asks for", verbatim, secret=True)] = ""
    http_user: Annotated[str, About("user that every HTTP endpoint asks for, with http_password", anything)] = ""
    http_password: Annotated[str, About("its password", verbatim, secret=True)] = ""
    dashboard_host: Annotated[str, About("address on which `headstart dashboard` listens; other than loopback it needs a token or a password", anything)] = (
        "127.0.0.1"
    )
    dashboard_port: Annotated[int, About("port of the dashboard; 0 takes a free one", whole(0, 65_535))] = 8765
    log_level: Annotated[str, About("least level that is logged", one_of("DEBUG", "INFO", "WARNING", "ERROR"))] = "INFO"
    came_from: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        """Name every value that is not its default, with secrets masked."""
        given = (f"{name}={masked(name, getattr(self, name))!r}" for name in ABOUT if getattr(self, name) != default(name))
        return f"Settings({', '.join(given)})"


def _table() -> dict[str, About]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: about for name, hint in hints.items() for about in getattr(hint, "__metadata__", ()) if isinstance(about, About)}


ABOUT: Final = _table()
SECRETS: Final = tuple(name for name, about in ABOUT.items() if about.secret)
SECRET_FILES: Final = {f"{name}_file": name for name in SECRETS}
_DEFAULTS: Final = Settings()


def default(name: str) -> object:
    """The default of a setting; "" where it has none."""
    return getattr(_DEFAULTS, name)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


def load_settings(config: Path | None = None, *, needs: Sequence[str] = (), assignments: Sequence[str] = (), **overrides: object) -> Settings:
    """Return the settings from all sources.

    `config` names a TOML file that must exist; `needs` names settings that must not be empty (broker, redis);
    `assignments` are texts NAME=VALUE, as `--set` takes them, but for secrets; an override of None counts as not given, and wins over all else otherwise.
    Raises InputError with one line that names the setting, the source, what was expected and what came. Secrets are hidden from then on
    in whatever this process logs or prints as an error.
    """
    values: dict[str, object] = {}
    came_from: dict[str, str] = {}

    def take(name: str, raw: object, source: str) -> None:
        if name in SECRET_FILES:
            raw, source, name = _content(raw, f"setting {name!r} from {source}"), f"file {raw} ({source})", SECRET_FILES[name]
        if name == "redis" and source.startswith("option") and masking.passwords_in(str(raw)):
            raise InputError(
                f"{source}: a password is no option of a command: give {variable(name)}, or the setting redis_password_file that names a file with it"
            )
        try:
            values[name] = ABOUT[name].form.read(raw)
        except ValueError:
            got = masked(name, str(raw)) if name in SECRETS or isinstance(raw, str) else raw
            raise InputError(f"setting {name!r} from {source}: expected {ABOUT[name].form.expected}, got {got!r}") from None
        came_from[name] = source

    file, found = _file(config)
    environment = {name: text for name in (*ABOUT, *SECRET_FILES) if (text := os.environ.get(variable(name), ""))}
    for place, given in ((file, found), ("the environment", environment)):
        for name, secret in SECRET_FILES.items():
            if name in given and secret in given:
                raise InputError(f"{place} gives both {secret} and {name}: give one of them")
    for name, raw in found.items():
        if name not in ABOUT and name not in SECRET_FILES:
            raise InputError(f"{file}: there is no setting {name!r}{_nearest(name)}")
        take(name, raw, f"file {file}")
    for name, text in environment.items():
        take(name, text, f"environment {variable(name)}")
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if name in SECRETS:
            raise InputError(f"--set {name}: a secret is no option of a command: give {variable(name)}, or the setting {name}_file that names a file with it")
        if not equals:
            raise InputError(f"--set {name}: expected NAME=VALUE")
        if name not in ABOUT and name not in SECRET_FILES:
            raise InputError(f"--set {name}: there is no such setting{_nearest(name)}")
        take(name, text, f"option --set {name}")
    for name, raw in overrides.items():
        if name not in ABOUT:
            raise TypeError(f"there is no setting {name!r}")
        if raw is not None:
            take(name, raw, f"option --{name.replace('_', '-')}")
    for name in needs:
        if not values.get(name, default(name)):
            ways = f"--{name.replace('_', '-')}, {variable(name)}, or {name} in {file or DEFAULT_FILE}"
            raise InputError(f"setting {name!r} is missing, and has no default: give {ways}")
    typed: dict[str, Any] = values
    settings = Settings(**typed, came_from=came_from)
    for secret in SECRETS:
        masking.remember(getattr(settings, secret))
    masking.remember_url(settings.redis)
    return settings


def _content(path: object, which: str) -> str:
    """A secret's file, without the newline that editors put at its end."""
    if not isinstance(path, str) or not path.strip():
        raise InputError(f"{which}: expected a path")
    try:
        return Path(path.strip()).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{which}: {path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{which}: {path} cannot be read: {error.strerror}") from None


def _file(config: Path | None) -> tuple[str, dict[str, object]]:
    """The TOML file's name ("" if there is none) and what it holds."""
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    file = named or Path(DEFAULT_FILE)
    if named is None and not file.exists():
        return "", {}
    try:
        return str(file), tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not TOML: {error}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, ABOUT, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(ABOUT)}"


def origins(settings: Settings) -> dict[str, str]:
    """Where each value came from, by name and in the table's order: "default", "file …", "environment …" or "option …"."""
    return {name: settings.came_from.get(name, "default") for name in ABOUT}


def unused_variables() -> list[str]:
    """Names in the environment that look like settings and are none: mostly misspelt. Not an error, since Kubernetes makes such names too."""
    known = {variable(name) for name in (*ABOUT, *SECRET_FILES)} | {CONFIG_VARIABLE}
    return sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that say what of these settings is not the default. They hold secrets: for a process, never for a log."""
    return {variable(name): shown(getattr(settings, name)) for name in ABOUT if getattr(settings, name) != default(name)}


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process that is to have these settings: ours, without what it says of settings, and no settings file of its own."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return inherited | {CONFIG_VARIABLE: os.devnull} | as_environment(settings)


def for_a_shell(settings: Settings) -> str:
    """What a person puts before a command to give it these settings; what is secret is named, and left to them."""
    given = {name: value for name in ABOUT if (value := getattr(settings, name)) != default(name)}
    return " ".join(f"{variable(name)}={shlex.quote(shown(value)) if masked(name, value) == shown(value) else '…'}" for name, value in given.items())


def with_changes(settings: Settings, **changes: Any) -> Settings:
    """The same settings with some replaced (already of the right type); they count as set by the program."""
    came_from = {**settings.came_from, **dict.fromkeys(changes, "this command")}
    return dataclasses.replace(settings, **changes, came_from=came_from)
