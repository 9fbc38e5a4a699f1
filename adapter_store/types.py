"""Names that every process agrees on: tenants, adapters, package digests and engine names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from adapter_store.errors import InvalidNameError

TenantId = NewType("TenantId", str)
AdapterName = NewType("AdapterName", str)
Digest = NewType("Digest", str)
"""SHA-256 of a package's manifest bytes, as 64 lowercase hexadecimal digits."""

_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_ADAPTER = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENGINE_NAME = re.compile(
    r"ts-(?P<tenant>.+)-(?P<digest>[0-9a-f]{64})-(?P<epoch>0|[1-9][0-9]{0,8})"
)


def parse_tenant_id(text: str) -> TenantId:
    """Return `text` as a tenant id (1 to 48 of a-z, 0-9 and inner dashes)."""
    if not _TENANT.fullmatch(text):
        raise InvalidNameError("tenant id", "1 to 48 of a-z, 0-9 and inner '-'")
    return TenantId(text)


def parse_adapter_name(text: str) -> AdapterName:
    """Return `text` as an adapter name (1 to 64 of a-z, 0-9 and inner `.`, `-`, `_`)."""
    if not _ADAPTER.fullmatch(text):
        raise InvalidNameError("adapter name", "1 to 64 of a-z, 0-9 and inner '.', '_', '-'")
    return AdapterName(text)


def parse_digest(text: str) -> Digest:
    """Return `text` as a package digest."""
    if not _DIGEST.fullmatch(text):
        raise InvalidNameError("package digest", "64 lowercase hexadecimal digits")
    return Digest(text)


@dataclass(frozen=True, slots=True)
class EngineName:
    """The only name by which an engine knows an adapter: content-addressed, with an epoch.

    A new version, a rollback or a failed load is a new name, so a prefix-cache block that
    was computed under another set of weights can never be found again.
    """

    tenant: TenantId
    digest: Digest
    epoch: int

    def __str__(self) -> str:
        return f"ts-{self.tenant}-{self.digest}-{self.epoch}"

    @classmethod
    def parse(cls, text: str) -> EngineName:
        """Return the parts of an engine name; raises InvalidNameError for anything else."""
        match = _ENGINE_NAME.fullmatch(text)
        if match is None:
            raise InvalidNameError("engine name", "ts-<tenant>-<sha256>-<epoch>")
        return cls(
            tenant=parse_tenant_id(match["tenant"]),
            digest=Digest(match["digest"]),
            epoch=int(match["epoch"]),
        )
