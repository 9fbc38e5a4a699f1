"""TSSP v1 read a second time, straight from its description and without the product's code.

It shares no line with `adapter_store`, so the two agree only if both follow the specification.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def decode(
    package: bytes, *, ed25519: bytes, mldsa65: bytes, ingest_seed: bytes
) -> tuple[dict[str, Any], str, bytes, dict[str, bytes]]:
    """Return a package's manifest, digest, data key and decrypted files, all verified."""
    assert package[:8] == b"TSSP\x01\r\n\x1a"
    envelope_end = 12 + int.from_bytes(package[8:12], "little")
    recipients_start = envelope_end + 4
    recipients_end = recipients_start + int.from_bytes(
        package[envelope_end:recipients_start], "little"
    )
    envelope = json.loads(package[12:envelope_end])
    recipients = json.loads(package[recipients_start:recipients_end])
    manifest_bytes = base64.b64decode(envelope["payload"])

    kind = b"application/vnd.tensafe.tssp.manifest+json"
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(manifest_bytes), manifest_bytes)
    first, second = (base64.b64decode(entry["sig"]) for entry in envelope["signatures"])
    Ed25519PublicKey.from_public_bytes(ed25519).verify(first, signed)
    MLDSA65PublicKey.from_public_bytes(mldsa65).verify(second, signed)

    manifest = json.loads(manifest_bytes)
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    info = b"tssp/1 ingest\0" + manifest["tenant"].encode() + b"\0" + digest.encode()
    data_key = hpke.Suite(
        hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM
    ).decrypt(
        base64.b64decode(recipients[0]["sealed"]),
        hpke.MLKEM768X25519PrivateKey(
            MLKEM768PrivateKey.from_seed_bytes(ingest_seed[:64]),
            X25519PrivateKey.from_private_bytes(ingest_seed[64:]),
        ),
        info,
    )
    commitment = hkdf(data_key, b"tssp/1 key commitment\0" + manifest["package_id"].encode(), 32)
    assert commitment.hex() == manifest["encryption"]["key_commitment"]

    bound = manifest_bytes
    for entry in manifest["files"]:
        bound = bound.replace(entry["ciphertext_sha256"].encode(), b"0" * 64)
    binding = hashlib.sha256(bound).digest()
    files, position = {}, recipients_end
    for index, entry in enumerate(manifest["files"]):
        end = position + entry["ciphertext_size"]
        ciphertext = package[position:end]
        assert hashlib.sha256(ciphertext).hexdigest() == entry["ciphertext_sha256"]
        files[entry["path"]] = stream_open(
            data_key, entry["path"], ciphertext, binding + struct.pack(">I", index)
        )
        assert len(files[entry["path"]]) == entry["size"]
        position = end
    assert position == len(package)
    return manifest, digest, data_key, files


def stream_open(data_key: bytes, path: str, ciphertext: bytes, associated: bytes) -> bytes:
    """Open one file's chunks of 1 MiB, each with its 16-byte tag."""
    material = hkdf(data_key, b"tssp/1 file\0" + path.encode(), 39)
    key, prefix = material[:32], material[32:]
    sealed = 1048576 + 16
    starts = range(0, len(ciphertext), sealed)
    return b"".join(
        AESGCM(key).decrypt(
            prefix + struct.pack(">IB", number, start == starts[-1]),
            ciphertext[start : start + sealed],
            associated,
        )
        for number, start in enumerate(starts)
    )


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 without a salt."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)
