"""API keys of two tenants, and authenticators that share one database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.audit.log import SqlAuditLog
from gateway.db.engine import Database
from gateway.tenancy.api_keys import ApiKeys
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.key_text import Pepper
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.publisher_keys import PublisherKeys
from gateway.tenancy.tenants import Tenants
from tests.fakes.clock import FakeClock

PEPPER = Pepper(1, b"p" * 32)
TTL_S = 2.0


@pytest.fixture
async def tenants(database: Database, audit: SqlAuditLog, clock: FakeClock) -> Tenants:
    tenants = Tenants(database, audit, clock)
    for name in ("acme", "globex"):
        await tenants.create(LOCAL_OPERATOR, name)
    return tenants


@pytest.fixture
def api_keys(database: Database, audit: SqlAuditLog, clock: FakeClock, tenants: Tenants) -> ApiKeys:
    return ApiKeys(database, audit, clock, pepper=PEPPER, environment="test")


@pytest.fixture
def publisher_keys(
    database: Database, audit: SqlAuditLog, clock: FakeClock, tenants: Tenants
) -> PublisherKeys:
    return PublisherKeys(database, audit, clock)


@pytest.fixture
def make_authenticator(database: Database, clock: FakeClock) -> Callable[..., Authenticator]:
    def make(pepper: Pepper = PEPPER, environment: str = "test") -> Authenticator:
        return Authenticator(database, clock, pepper=pepper, environment=environment, ttl_s=TTL_S)

    return make


@pytest.fixture
def authenticator(make_authenticator: Callable[..., Authenticator]) -> Authenticator:
    return make_authenticator()
