"""Brings a database to the schema of this version, forward only."""

from gateway.db.migrations.run import migrate, require_current

__all__ = ["migrate", "require_current"]
