"""Whether a broker takes what a client has to prove: asked once, before a client that would go on trying for its whole time and then not say why."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from features.errors import DependencyDown, InputError

CLOSE_S: Final = 0.5


def prove(place: tuple[str, int], client_config: Mapping[str, object], *, timeout_s: float) -> None:
    """Connect to one broker as kafka-python's `client_config` says, ask one question, and leave.

    Raises InputError when the broker refuses the user, or we its certificate; DependencyDown when it speaks another protocol or hangs up.
    """
    # A thread with a loop of its own: the caller may stand in one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _prove(place, dict(client_config), timeout_s)).result()


async def _prove(place: tuple[str, int], config: dict[str, Any], timeout_s: float) -> None:
    from aiokafka.conn import AIOKafkaConnection  # not for the open brokers that most commands speak to
    from aiokafka.errors import AuthenticationFailedError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
    from aiokafka.protocol.admin import ListGroupsRequest

    where = f"{place[0]}:{place[1]}"
    refused = f"the broker at {where} refuses the user {config.get('sasl_plain_username')!r}"
    try:
        async with asyncio.timeout(timeout_s):
            connection = AIOKafkaConnection(*place, request_timeout_ms=int(1000 * timeout_s), **config)
            try:
                await connection.connect()
                # Before that a client that has proved nothing may say hello, and with TLS 1.3 also one whose certificate will be refused.
                await connection.send(ListGroupsRequest())
            finally:
                if (closed := connection.close()) is not None:
                    await asyncio.wait({closed}, timeout=CLOSE_S)
    except UnsupportedSaslMechanismError:
        raise InputError(f"{refused}: it does not know {config['sasl_mechanism']} (setting sasl_mechanism)") from None
    except (AuthenticationFailedError, SaslAuthenticationFailed) as error:
        raise InputError(f"{refused}: {_said(error)}") from None
    except ssl.SSLCertVerificationError as error:
        raise InputError(f"the certificate of the broker at {where} is not trusted: {error.verify_message} (settings ssl_cafile, ssl_check_hostname)") from None
    except (KafkaError, OSError) as error:
        raise DependencyDown(
            f"the broker at {where} hangs up: does it speak {config['security_protocol']}, and ask for no certificate? {_said(error)}"
        ) from None


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rpartition("]")[2].strip()
