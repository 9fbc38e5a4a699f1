"""What middleware and routes share about one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

from starlette.types import Scope

if TYPE_CHECKING:
    from gateway.services import Services
    from gateway.tenancy.principal import Principal


@dataclass(slots=True)
class RequestContext:
    """One request: who it is, who asks, and what the access log will say about it."""

    request_id: str
    started_s: float
    """When its head had arrived, on the monotonic clock."""
    principal: Principal | None = None
    error_code: str | None = None
    outcome: str | None = None

    @property
    def caller(self) -> Principal:
        """The authenticated caller; only public routes have none, and they do not ask."""
        if self.principal is None:
            raise AssertionError("a public route asked who calls")
        return self.principal


class State(TypedDict):
    """The state of every request: `request.state["services"]`."""

    services: Services
    context: RequestContext


def state_of(scope: Scope) -> State:
    """Return the typed state of a request that middleware has prepared."""
    return cast("State", scope["state"])
