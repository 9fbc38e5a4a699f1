"""The HTTP routes, and the one table that turns errors into responses."""
