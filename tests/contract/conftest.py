"""The kinds of Redis that the store's contract is checked against: a cluster, and one behind TLS and an access list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from features.redis_access import RedisAccess
from streams.rights import redis_user
from tests.certificates import Certificates
from tests.redis_servers import Cluster, TlsRedis

PASSWORD = "w@rk/er:s3cret%20"


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for the whole session: do not stop its nodes."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def tls_redis(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[TlsRedis]:
    """A Redis that takes TLS and certificates only, with a user for a worker and one for a dashboard of namespaces test-…; skipped where there is none."""
    if why := TlsRedis.missing():
        pytest.skip(why)
    # The namespaces of the tests share a beginning.
    users = {role: " ".join(redis_user(role, role, "test-")[3:]).replace("PASSWORD", PASSWORD).replace("test-:", "test-") for role in ("worker", "dashboard")}
    with TlsRedis(tmp_path_factory.mktemp("redis"), certificates, users) as server:
        yield server


@pytest.fixture
def tls_access(tls_redis: TlsRedis, certificates: Certificates) -> RedisAccess:
    """How a worker reaches it."""
    certificate, key = certificates.client("worker")
    return RedisAccess(
        tls_redis.url, user="worker", password=PASSWORD, cafile=str(certificates.authority), certfile=str(certificate), keyfile=str(key)
    )  # fmt: skip
