"""Pure ASGI middleware, in the order in which `gateway/app.py` stacks it."""
