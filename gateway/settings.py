"""The gateway's settings: read from the environment once, checked, and frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 2**20
GIB = 2**30


def _in_home(*parts: str) -> Any:
    """Return a default factory for a path inside the home of the deployment."""
    return lambda data: data["home"].joinpath(*parts)


class GatewaySettings(BaseSettings):
    """What `tensafe gateway serve` can be told, each by `GATEWAY_<NAME>`.

    `home` alone is shared by every process, so it is also read from `TENSAFE_HOME`; everything
    else defaults to a place inside it. Raises pydantic's ValidationError, which names the
    setting and never repeats its value: a database URL holds a password.
    """

    model_config = SettingsConfigDict(
        env_prefix="GATEWAY_",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        extra="ignore",
    )

    home: Path = Field(
        default_factory=lambda: Path.home() / ".tensafe",
        validation_alias=AliasChoices("GATEWAY_HOME", "TENSAFE_HOME"),
        description="The folder of this deployment",
    )
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['home'] / 'gateway.db'}",
        repr=False,
        description="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME",
    )
    object_store_url: str = Field(
        default_factory=lambda data: (data["home"] / "objects").absolute().as_uri(),
        description="file:///PATH or memory:///",
    )
    keyring: Path = Field(
        default_factory=_in_home("keys", "gateway.json"), description="The gateway's own keys"
    )
    pool_dir: Path = Field(
        default_factory=_in_home("pool"), description="Where the pool puts its sockets"
    )
    environment: Literal["live", "test"] = Field(
        default="live", description="The environment that is written into API keys"
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    max_request_bytes: int = Field(default=4 * MIB, ge=1, description="Largest JSON body")
    max_package_bytes: int = Field(default=2 * GIB, ge=1, description="Largest TSSP package")
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Time for a body to come; a large one has more"
    )

    key_cache_ttl_s: float = Field(
        default=2.0, ge=0, le=4.0, description="How long a key is believed without asking again"
    )
    alias_cache_ttl_s: float = Field(
        default=2.0, ge=0, le=4.0, description="How long an alias is believed"
    )
    audit_timeout_s: float = Field(
        default=2.0, gt=0, le=30.0, description="Longest wait for an audit record"
    )

    max_concurrent_requests: int = Field(
        default=256, ge=1, description="Inference requests at the engine at a time"
    )
    max_queued_requests: int = Field(
        default=512, ge=0, description="Inference requests that may wait; more are refused"
    )
    queue_timeout_s: float = Field(default=30.0, gt=0, description="Longest wait for a turn")
    engine_silence_s: float = Field(
        default=120.0, gt=0, description="Longest wait for the engine's next byte"
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="Longest wait for the head of a request"
    )
    send_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest wait for a client to read what it was sent"
    )
    drain_timeout_s: float = Field(
        default=60.0, ge=0, description="Time that requests have to end after SIGTERM"
    )
    max_connections: int = Field(default=4096, ge=1, description="Open client connections")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tenant_names_in_metrics: bool = Field(
        default=False, description="Label metrics by tenant id instead of a pseudonym"
    )

    @property
    def engine_socket(self) -> Path:
        """The pool's OpenAI socket."""
        return self.pool_dir / "engine.sock"

    @property
    def control_socket(self) -> Path:
        """The pool's control socket."""
        return self.pool_dir / "control.sock"
