"""What a genuine package must also be, to be accepted here: small checks, one condition each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from adapter_store.errors import (
    UnsupportedPackageError,
    WrongBaseModelError,
    WrongTenantError,
    shown,
)
from adapter_store.tssp.format import Limits
from adapter_store.tssp.manifest import VerifiedManifest
from adapter_store.types import TenantId

_SERVED_MODE: Final = "standard"


class Policy(Protocol):
    """One condition on a verified manifest."""

    def verify(self, verified: VerifiedManifest) -> None:
        """Raise a PolicyError unless the condition holds."""
        ...


@dataclass(frozen=True, slots=True)
class MadeForTenant:
    """Only packages made for this tenant: a package moved between tenants is refused."""

    tenant: TenantId

    def verify(self, verified: VerifiedManifest) -> None:
        """Raise WrongTenantError for a package of another tenant."""
        if verified.manifest.tenant != self.tenant:
            raise WrongTenantError(
                "tenant", expected=self.tenant, found=shown(verified.manifest.tenant)
            )


@dataclass(frozen=True, slots=True)
class MadeForBaseModel:
    """Only packages made for the base model of this fingerprint."""

    fingerprint: str

    def verify(self, verified: VerifiedManifest) -> None:
        """Raise WrongBaseModelError for a package of another base model."""
        found = verified.manifest.base_model
        if found.fingerprint != self.fingerprint:
            raise WrongBaseModelError(
                "base model fingerprint",
                expected=self.fingerprint,
                found=f"{found.fingerprint} ({shown(found.id)})",
            )


@dataclass(frozen=True, slots=True)
class Servable:
    """Only what an engine serves as it is: one ordinary LoRA within the limits."""

    limits: Limits

    def verify(self, verified: VerifiedManifest) -> None:
        """Raise UnsupportedPackageError for anything else."""
        manifest = verified.manifest
        if manifest.mode != _SERVED_MODE or manifest.shards != 1 or manifest.adapter.use_dora:
            raise UnsupportedPackageError(
                "package",
                expected="mode standard, 1 shard, no DoRA",
                found=f"mode {manifest.mode}, {manifest.shards} shards, "
                f"{'DoRA' if manifest.adapter.use_dora else 'no DoRA'}",
            )
        if manifest.adapter.max_rank > self.limits.max_rank:
            raise UnsupportedPackageError(
                "LoRA rank",
                expected=f"at most {self.limits.max_rank}",
                found=manifest.adapter.max_rank,
            )
