"""What alembic runs: the migrations, on the connection that the program gave it."""

from __future__ import annotations

from alembic import context

from gateway.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
