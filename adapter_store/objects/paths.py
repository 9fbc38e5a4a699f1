"""How objects are named: everything of a package lives under its tenant and digest.

staging/<uuid>                                    an upload in progress
tenants/<tenant>/packages/<digest>/package.tssp   the sealed package, without recipients
…/recipients.json                                 the uploaded recipients, until admission
…/data_key.json                                   the wrapped data key; without it, noise
…/activation.json                                 the signed activation record
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from adapter_store.types import Digest, TenantId

STAGING: Final = "staging"
TENANTS: Final = "tenants"


def staging(upload: UUID) -> str:
    """Return where an upload is written until it is verified."""
    return f"{STAGING}/{upload}"


@dataclass(frozen=True, slots=True)
class PackagePaths:
    """The objects of one package."""

    tenant: TenantId
    digest: Digest

    @property
    def folder(self) -> str:
        """What all of the package's objects begin with."""
        return f"{TENANTS}/{self.tenant}/packages/{self.digest}"

    @property
    def package(self) -> str:
        """The sealed package; created once, never overwritten."""
        return f"{self.folder}/package.tssp"

    @property
    def recipients(self) -> str:
        """The uploaded recipients; deleted when the pool has admitted the package."""
        return f"{self.folder}/recipients.json"

    @property
    def data_key(self) -> str:
        """The data key wrapped by the pool's key provider; deleting it shreds the package."""
        return f"{self.folder}/data_key.json"

    @property
    def activation(self) -> str:
        """The signed activation record; the one object that is overwritten."""
        return f"{self.folder}/activation.json"
