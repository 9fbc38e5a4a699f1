"""Every table of the gateway, as SQLAlchemy Core sees it; migrations build the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, stored and returned in UTC; refuses one that does not know its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time in UTC, as SQLite (which keeps no zone) needs it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("expected a time that knows its zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored time with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("tenant", String(48), ForeignKey("tenants.id"), index=True),
    Column("label", String(200), nullable=False),
    Column("scopes", String(200), nullable=False),  # sorted, separated by a space
    Column("mac", LargeBinary(32), nullable=False),  # HMAC-SHA256 under the pepper
    Column("pepper_version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("replaced_by", String(16)),
)

publisher_keys = Table(
    "publisher_keys",
    metadata,
    Column("tenant", String(48), ForeignKey("tenants.id"), primary_key=True),
    Column("key_id", String(16), primary_key=True),
    Column("label", String(200), nullable=False),
    Column("public_key", Text, nullable=False),  # PublisherPublicKey.to_json()
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

adapters = Table(
    "adapters",
    metadata,
    Column("tenant", String(48), ForeignKey("tenants.id"), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(500)),
    Column("epoch", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("base_model", String(200), nullable=False),
    Column("description", Text, nullable=False),
    Column("publisher", Text, nullable=False),  # the signer's PublisherPublicKey.to_json()
    Column("created_at", UtcDateTime, nullable=False),
    Column("activated_at", UtcDateTime),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("epoch_changed_at", UtcDateTime),
    Column("record_due_at", UtcDateTime),  # when the activation record is written next
    Column("purged_at", UtcDateTime),  # null: objects may still exist
    # A rejected or deleted version may be published again, under another digest.
    Index(
        "uq_adapters_version",
        "tenant",
        "name",
        "version",
        unique=True,
        sqlite_where=text("state NOT IN ('rejected', 'shredded')"),
        postgresql_where=text("state NOT IN ('rejected', 'shredded')"),
    ),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String(48), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("digest", String(64)),  # null: means nothing now
    Column("generation", BigInteger, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["tenant", "digest"], ["adapters.tenant", "adapters.digest"]),
)

evictions = Table(  # engine names that must leave the engines' memory
    "evictions",
    metadata,
    Column("engine_name", String(140), primary_key=True),
    Column("tenant", String(48), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),  # canonical bytes
    Column("hash", LargeBinary(32), nullable=False),
)

audit_head = Table(  # one row: where the chain ends
    "audit_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)
