"""A publisher, a tenant and a pool in a few lines: adapters, packages and stores for any test."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adapter_store.activation import ActivationRecord, State, sign_activation
from adapter_store.base_model import BaseModel, BaseModelRef
from adapter_store.ingest import IngestedPackage, PackageIngest
from adapter_store.keys.keyring import PoolKeys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.loading import PackageLoader
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore, open_object_store
from adapter_store.tssp.container import Header, HeaderParser
from adapter_store.tssp.format import MAX_PACKAGE_BYTES, Limits
from adapter_store.tssp.privacy import NoPrivacy
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.tssp.writer import pack
from adapter_store.types import Digest, EngineName, TenantId, parse_adapter_name

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
RANK, FEATURES = 4, 16
MODULES = tuple(
    f"model.layers.{layer}.self_attn.{projection}"
    for layer in range(2)
    for projection in ("q_proj", "v_proj")
)
CONFIG: Mapping[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "task_type": "CAUSAL_LM",
}
BASE_MODEL = BaseModel(fingerprint="ba5e" * 16, shapes=dict.fromkeys(MODULES, (FEATURES, FEATURES)))


def safetensors(tensors: Mapping[str, np.ndarray[Any, Any]], *, dtype: str = "F32") -> bytes:
    """Return a safetensors file, made without the safetensors library."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    return safetensors_file(json.dumps(header).encode(), data)


def safetensors_file(header: bytes, data: bytes) -> bytes:
    """Return a safetensors file with this header, whatever it says."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def lora_tensors(
    *, seed: int = 0, modules: Sequence[str] = MODULES, rank: int = RANK
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the two matrices of each module, filled with numbers of a seed."""
    random = np.random.default_rng(seed)
    return {
        f"base_model.model.{module}.lora_{side}.weight": random.normal(size=shape).astype(
            np.float32
        )
        for module in modules
        for side, shape in (("A", (rank, FEATURES)), ("B", (FEATURES, rank)))
    }


def adapter_folder(
    folder: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: bytes | None = None,
    seed: int = 0,
) -> Path:
    """Write a PEFT adapter for BASE_MODEL and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(
        safetensors(lora_tensors(seed=seed)) if tensors is None else tensors
    )
    return folder


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Yield `data` as an upload would bring it."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def parse(package: bytes) -> tuple[Header, bytes]:
    """Return a package's header and payload, unverified."""
    parser = HeaderParser()
    payload = parser.feed(package)
    return parser.finish(), payload


def make_pool_keys(*, activation_key: PublisherPrivateKey) -> PoolKeys:
    """Return pool keys that are the same in every run."""
    return PoolKeys(
        version=1,
        wrapping_seed=b"w" * 32,
        ingest_seed=b"i" * 32,
        activation_public_key=activation_key.public_key,
    )


@dataclass
class World:
    """One deployment in memory: an object store, the pool's keys, and one registered publisher."""

    objects: ObjectStore = field(default_factory=lambda: open_object_store("memory:///"))
    publisher: PublisherPrivateKey = field(default_factory=PublisherPrivateKey.generate)
    activation_key: PublisherPrivateKey = field(default_factory=PublisherPrivateKey.generate)
    base_model: BaseModel = BASE_MODEL
    time: datetime = datetime(2026, 11, 23, 12, tzinfo=UTC)

    @property
    def keys(self) -> LocalKeyProvider:
        return LocalKeyProvider(make_pool_keys(activation_key=self.activation_key))

    def pack(
        self,
        adapter: Path,
        *,
        tenant: TenantId = ACME,
        out: io.BytesIO | None = None,
        **changes: Any,
    ) -> bytes:
        """Return a package of the adapter for `tenant`."""
        out = io.BytesIO() if out is None else out
        settings: dict[str, Any] = {
            "tenant": tenant,
            "name": parse_adapter_name("support"),
            "version": 1,
            "base_model": BaseModelRef(id="tiny", fingerprint=self.base_model.fingerprint),
            "signer": self.publisher,
            "recipients": [self.keys.ingest_public_key(tenant)],
            "privacy": NoPrivacy(dataset="tickets"),
        }
        pack(adapter, out, **(settings | changes))
        return out.getvalue()

    async def ingest(
        self, package: bytes, *, tenant: TenantId = ACME, max_bytes: int = MAX_PACKAGE_BYTES
    ) -> IngestedPackage:
        """Upload a package as a gateway would."""
        return await PackageIngest(self.objects).ingest(
            pieces(package),
            tenant=tenant,
            trusted=[self.publisher.public_key],
            base_fingerprint=self.base_model.fingerprint,
            max_bytes=max_bytes,
        )

    async def record(
        self,
        digest: Digest,
        state: State,
        *,
        tenant: TenantId = ACME,
        epoch: int = 0,
        valid: timedelta = timedelta(days=1),
        **changes: Any,
    ) -> None:
        """Write an activation record as a gateway would."""
        members: dict[str, Any] = {
            "tenant": tenant,
            "digest": digest,
            "epoch": epoch,
            "state": state,
            "publisher": self.publisher.public_key,
            "issued_at": self.time,
            "expires_at": self.time + valid,
        }
        envelope = sign_activation(ActivationRecord(**(members | changes)), self.activation_key)
        await self.objects.replace(PackagePaths(tenant, digest).activation, envelope)

    def loader(self, **changes: Any) -> PackageLoader:
        """Return the pool's loader."""
        settings: dict[str, Any] = {
            "activation_key": self.activation_key.public_key,
            "base_model": self.base_model,
            "limits": Limits(),
            "now": lambda: self.time,
        }
        return PackageLoader(self.objects, self.keys, **(settings | changes))

    async def activated(self, package: bytes, *, tenant: TenantId = ACME) -> EngineName:
        """Take a package all the way and return what the engine calls it."""
        digest = (await self.ingest(package, tenant=tenant)).digest
        await self.record(digest, "admitting", tenant=tenant)
        self.loader().admit(tenant, digest)
        await self.record(digest, "active", tenant=tenant)
        return EngineName(tenant=tenant, digest=digest, epoch=0)

    async def stored(self) -> dict[str, bytes]:
        """Return every object of the store."""
        return {
            item.path: await self.objects.read(item.path, max_bytes=MAX_PACKAGE_BYTES)
            async for item in self.objects.list("")
        }
