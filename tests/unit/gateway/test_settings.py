"""Settings come from the environment, are checked, and keep their secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings


def test_everything_is_inside_the_home_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSAFE_HOME", "/srv/ten safe")
    settings = GatewaySettings()
    assert settings.database_url == "sqlite:////srv/ten safe/gateway.db"
    assert settings.object_store_url == "file:///srv/ten%20safe/objects"
    assert settings.keyring == Path("/srv/ten safe/keys/gateway.json")
    assert settings.engine_socket == Path("/srv/ten safe/pool/engine.sock")
    assert settings.control_socket == Path("/srv/ten safe/pool/control.sock")


def test_the_default_home_is_the_users() -> None:
    assert GatewaySettings().home == Path.home() / ".tensafe"


def test_a_setting_is_read_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "9000")
    monkeypatch.setenv("GATEWAY_ENVIRONMENT", "test")
    settings = GatewaySettings()
    assert (settings.port, settings.environment) == (9000, "test")


def test_the_databases_password_is_in_no_repr_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://u:s3cret@host/db")
    assert "s3cret" not in repr(GatewaySettings())
    monkeypatch.setenv("GATEWAY_PORT", "s3cret")
    with pytest.raises(ValidationError) as refused:
        GatewaySettings()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("ENVIRONMENT", "x"), ("KEY_CACHE_TTL_S", "9"), ("AUDIT_TIMEOUT_S", "0")],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        GatewaySettings()


def test_settings_cannot_change(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = GatewaySettings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
