"""The gateway's database: SQLite by default, Postgres by URL, the same code on both."""
