"""Fixtures of every test: asyncio as the async backend, and an environment without surprises."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

FOREIGN_PREFIXES = ("TENSAFE_", "GATEWAY_", "POOL_", "OPENAI_", "VLLM_", "AWS_", "VAULT_")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Remove settings of whoever runs the tests, so that defaults are what is tested."""
    saved = {name: value for name, value in os.environ.items() if name.startswith(FOREIGN_PREFIXES)}
    for name in saved:
        del os.environ[name]
    yield
    os.environ.update(saved)
