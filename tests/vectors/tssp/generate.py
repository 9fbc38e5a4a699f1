"""Makes the TSSP test vectors: known answers with fixed keys, and one file for each forgery.

    python -m tests.vectors.tssp.generate

Manifests, digests, data keys and payloads come out the same every time. ML-DSA-65 signatures
and HPKE encapsulations are randomised, so the files differ in those; regenerate only when the
format changes, which must not happen within v1.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adapter_store.base_model import BaseModelRef
from adapter_store.keys.keyring import PoolKeys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.tssp.encryption import DataKey
from adapter_store.tssp.format import CHUNK_BYTES, SPEC, ciphertext_size
from adapter_store.tssp.manifest import AEAD_NAME, Encryption, FileEntry, Manifest
from adapter_store.tssp.privacy import NoPrivacy, PrivacyStatement
from adapter_store.tssp.signing import PublisherPrivateKey
from adapter_store.tssp.writer import read_adapter_folder, write_package
from adapter_store.types import AdapterName
from tests.fakes.forgery import FORGERIES, Forger
from tests.fakes.packages import ACME, BASE_MODEL, adapter_folder, lora_tensors, safetensors
from tests.unit.adapter_store.test_writer import DP
from tests.vectors.tssp import plain_decoder

HERE = Path(__file__).parent
PUBLISHER = PublisherPrivateKey(ed25519_seed=b"\x01" * 32, mldsa65_seed=b"\x02" * 32)
STRANGER = PublisherPrivateKey(ed25519_seed=b"\x03" * 32, mldsa65_seed=b"\x04" * 32)
POOL = PoolKeys(
    version=1,
    wrapping_seed=b"\x05" * 32,
    ingest_seed=b"\x06" * 32,
    activation_public_key=STRANGER.public_key,
)
MODULE = "model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
KNOWN: dict[str, dict[str, Any]] = {
    "plain": {"number": 1, "privacy": NoPrivacy(dataset="tickets")},
    "differentially-private": {"number": 2, "privacy": DP},
}


def known_package(*, number: int, privacy: PrivacyStatement) -> bytes:
    """Return a package of which everything but the randomness of its algorithms is fixed."""
    data_key = DataKey(bytes([0x10 + number]) * 32)
    package_id = f"0193554c-9000-7000-8000-{number:012d}"
    out = io.BytesIO()
    with TemporaryDirectory() as folder:
        tensors = safetensors(
            {
                name: np.arange(tensor.size, dtype=np.float32).reshape(tensor.shape) + number
                for name, tensor in lora_tensors(modules=[MODULE], rank=1).items()
            }
        )
        adapter = read_adapter_folder(adapter_folder(Path(folder), config=CONFIG, tensors=tensors))
        manifest = Manifest(
            spec=SPEC,
            package_id=package_id,
            created_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
            tenant=ACME,
            name=AdapterName("support"),
            version=number,
            base_model=BaseModelRef(id="tiny", fingerprint=BASE_MODEL.fingerprint),
            adapter=adapter.config,
            mode="standard",
            shards=1,
            files=tuple(
                FileEntry(
                    path=path,
                    size=size,
                    ciphertext_size=ciphertext_size(size),
                    ciphertext_sha256="0" * 64,
                )
                for path, _, size in adapter.files
            ),
            encryption=Encryption(
                aead=AEAD_NAME,
                chunk_size=CHUNK_BYTES,
                key_commitment=data_key.commitment(package_id),
            ),
            privacy=privacy,
            license="",
            description="naïve ünïcödé ✓",
            supersedes=None,
        )
        write_package(
            manifest,
            out,
            sources=[path for _, path, _ in adapter.files],
            data_key=data_key,
            signer=PUBLISHER,
            recipients=[LocalKeyProvider(POOL).ingest_public_key(ACME)],
        )
    return out.getvalue()


def answers(packages: Mapping[str, bytes]) -> dict[str, Any]:
    """Return what is in the packages, as a reader finds it that shares no code with the writer."""
    ingest_seed = plain_decoder.hkdf(POOL.ingest_seed, b"tensafe/local/1 ingest\0acme", 96)
    key = PUBLISHER.public_key
    found = {}
    for name, package in packages.items():
        _, digest, data_key, files = plain_decoder.decode(
            package, ed25519=key.ed25519, mldsa65=key.mldsa65, ingest_seed=ingest_seed
        )
        found[name] = {
            "digest": digest,
            "data_key": data_key.hex(),
            "files": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
        }
    return {
        "tenant": ACME,
        "base_model_fingerprint": BASE_MODEL.fingerprint,
        "publisher_seeds": {"ed25519": "01" * 32, "mldsa65": "02" * 32},
        "ingest_key_seed": ingest_seed.hex(),
        "packages": found,
    }


def main() -> None:
    """Write every vector over the one that is there."""
    known, hostile = HERE / "known", HERE / "hostile"
    for folder in (known, hostile):
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.tssp"):
            old.unlink()
    packages = {name: known_package(**settings) for name, settings in KNOWN.items()}
    for name, package in packages.items():
        (known / f"{name}.tssp").write_bytes(package)
    (known / "answers.json").write_text(json.dumps(answers(packages), indent=1) + "\n")
    plain, other = packages.values()
    forger = Forger(package=plain, other=other, publisher=PUBLISHER, stranger=STRANGER)
    for name, forgery in FORGERIES.items():
        (hostile / f"{name}.tssp").write_bytes(forgery.make(forger))
    codes = {name: forgery.error.code for name, forgery in FORGERIES.items()}
    (hostile / "errors.json").write_text(json.dumps(codes, indent=1) + "\n")


if __name__ == "__main__":
    main()
