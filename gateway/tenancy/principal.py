"""Who is asking: the verified identity behind a request."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_store.types import TenantId
from gateway.errors import PermissionDeniedError
from gateway.tenancy.scopes import Scope


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose key was verified, or the operator at this machine's own command line."""

    key_id: str
    tenant: TenantId | None
    scopes: frozenset[Scope]

    def require(self, scope: Scope) -> None:
        """Return if the caller has `scope`; raises PermissionDeniedError otherwise."""
        if scope not in self.scopes:
            raise PermissionDeniedError(f"this API key lacks the scope '{scope}'")

    def require_tenant(self, scope: Scope) -> TenantId:
        """Return the caller's tenant if it has `scope`; raises PermissionDeniedError otherwise."""
        self.require(scope)
        if self.tenant is None:
            raise PermissionDeniedError("this API key belongs to no tenant")
        return self.tenant


LOCAL_OPERATOR = Principal(key_id="local-operator", tenant=None, scopes=frozenset({Scope.ADMIN}))
"""Whoever runs `tensafe` on this machine and can read its database anyway."""
