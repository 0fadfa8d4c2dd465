"""How this process proves itself to Kafka: what the settings say, as kafka-python, aiokafka and Faust take it.

One TLS context serves all three. Faust's own `SSLCredentials` cannot be made without one, and knows no client certificates.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from features.errors import InputError
from streams.settings import Settings

BOOTSTRAP_MS: Final = 10_000


def client_config(settings: Settings) -> dict[str, Any]:
    """Return the security arguments of kafka-python's clients (and of aiokafka's): empty for PLAINTEXT.

    Raises InputError when the settings contradict each other, or a certificate's file cannot be used.
    """
    protocol = settings.security_protocol
    with_sasl, with_tls = protocol.startswith("SASL_"), protocol.endswith("SSL")
    if with_sasl and not (settings.sasl_username and settings.sasl_password):
        raise InputError(f"security_protocol {protocol} needs sasl_username and sasl_password (or sasl_password_file)")
    if not with_sasl and settings.sasl_username:
        raise InputError(f"sasl_username is given, but security_protocol {protocol} proves no user: set SASL_SSL or SASL_PLAINTEXT")
    if not with_tls and (settings.ssl_cafile or settings.ssl_certfile):
        raise InputError(f"ssl_cafile or ssl_certfile is given, but security_protocol {protocol} is not encrypted: set SSL or SASL_SSL")
    config: dict[str, Any] = {} if protocol == "PLAINTEXT" else {"security_protocol": protocol}
    if with_sasl:
        config |= {
            "sasl_mechanism": settings.sasl_mechanism, "sasl_plain_username": settings.sasl_username, "sasl_plain_password": settings.sasl_password,
        }  # fmt: skip
    if with_tls:
        config["ssl_context"] = _tls(settings)
    return config


def consumer_config(settings: Settings) -> dict[str, Any]:
    """Return the arguments of a kafka-python consumer that belongs to no group and commits nothing."""
    return {
        "bootstrap_servers": settings.broker.split(","), "enable_auto_commit": False, "bootstrap_timeout_ms": BOOTSTRAP_MS, **client_config(settings),
    }  # fmt: skip


def faust_credentials(settings: Settings) -> Any:
    """Return the same as Faust takes it, None for PLAINTEXT. Faust is imported here: other commands do without."""
    import faust

    config = client_config(settings)
    if not config:
        return None
    if "sasl_mechanism" not in config:
        return faust.SSLCredentials(config["ssl_context"])
    return faust.SASLCredentials(
        username=settings.sasl_username, password=settings.sasl_password, mechanism=settings.sasl_mechanism, ssl_context=config.get("ssl_context")
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile or None)
    except OSError as error:
        raise InputError(f"setting 'ssl_cafile': {settings.ssl_cafile} cannot be used: {error.strerror or error}") from None
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile:
        try:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile or None, settings.ssl_key_password or _no_password)
        except OSError as error:
            files = settings.ssl_certfile + (f" with {settings.ssl_keyfile}" if settings.ssl_keyfile else "")
            raise InputError(f"setting 'ssl_certfile': {files} cannot be used: {error.strerror or error}") from None
    elif settings.ssl_keyfile:
        raise InputError("ssl_keyfile is given without ssl_certfile")
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal."""
    raise InputError("the key in ssl_keyfile has a password: give ssl_key_password (or ssl_key_password_file)")
