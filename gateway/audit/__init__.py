"""The audit log: append-only, hash-chained, free of content; no record, no service."""
