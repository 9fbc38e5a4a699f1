"""A deployment is set up only where it can work."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from deploy.local.stack import LocalStack, StackError


def test_a_home_too_long_for_unix_sockets_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    home = tmp_path / ("x" * 60)
    with pytest.raises(StackError, match=r"too long for Unix sockets.*expected at most 43 bytes"):
        LocalStack.create(home, model="model")
    assert not home.exists()


def test_a_home_that_holds_a_deployment_is_refused_because_its_admin_key_is_unknown() -> None:
    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as directory:
        home = Path(directory) / "home"
        stack = LocalStack.create(home, model="model")
        assert stack.admin_key.startswith("tsk_")
        assert stack.admin_key not in repr(stack)
        assert home.stat().st_mode & 0o777 == 0o700
        with pytest.raises(StackError, match="holds a deployment already"):
            LocalStack.create(home, model="model")
