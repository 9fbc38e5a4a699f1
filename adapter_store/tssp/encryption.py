"""Chunked encryption of a package's files: STREAM over AES-256-GCM, with a commitment to the key.

Each file has its own key and nonce prefix, from HKDF over the package's data key and the file's
path. Chunk i is sealed under the nonce prefix ‖ i ‖ last, as in the STREAM construction (Hoang,
Reyhanitabar, Rogaway, Vizár: "Online authenticated-encryption and its nonce-reuse
misuse-resistance", CRYPTO 2015), with the manifest's binding and the file's index as associated
data. So a chunk that is changed, moved within its file, taken from another file or package, or
cut off at the end does not open.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapter_store.errors import ChunkError, KeyCommitmentError
from adapter_store.tssp.format import CHUNK_BYTES, TAG_BYTES, number_of_chunks
from adapter_store.tssp.manifest import Manifest, VerifiedManifest

DATA_KEY_BYTES: Final = 32
_NONCE_PREFIX_BYTES: Final = 7  # of GCM's 12: 4 are the counter, 1 is the last-chunk flag
_COMMITMENT_LABEL: Final = b"tssp/1 key commitment\0"
_FILE_LABEL: Final = b"tssp/1 file\0"


class DataKey:
    """The key of one package. Its repr shows nothing; `reveal` is for wrapping it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != DATA_KEY_BYTES:
            raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes")
        self._secret = secret

    @classmethod
    def generate(cls) -> DataKey:
        """Return a new key from the operating system's randomness."""
        return cls(os.urandom(DATA_KEY_BYTES))

    def reveal(self) -> bytes:
        """Return the key itself, to be wrapped for a recipient."""
        return self._secret

    def commitment(self, package_id: str) -> str:
        """Return what the manifest says about this key, in hexadecimal.

        AES-GCM opens one ciphertext under several keys for whoever builds it so. HKDF-SHA256 is
        collision-resistant, so this value names one key only.
        """
        return self._derive(_COMMITMENT_LABEL + package_id.encode(), 32).hex()

    def file_material(self, path: str) -> tuple[bytes, bytes]:
        """Return the AES key and the nonce prefix of one file."""
        material = self._derive(_FILE_LABEL + path.encode(), 32 + _NONCE_PREFIX_BYTES)
        return material[:32], material[32:]

    def _derive(self, info: bytes, length: int) -> bytes:
        return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(self._secret)

    def __repr__(self) -> str:
        return "DataKey(…)"


class FileCipher:
    """Seals or opens the chunks of one file, each by its number."""

    __slots__ = ("_aead", "_associated", "_chunks", "_path", "_prefix", "_size")

    def __init__(self, key: DataKey, manifest: Manifest, index: int) -> None:
        entry = manifest.files[index]
        secret, self._prefix = key.file_material(entry.path)
        self._aead = AESGCM(secret)
        self._associated = manifest.binding + struct.pack(">I", index)
        self._chunks = number_of_chunks(entry.size)
        self._path = entry.path
        self._size = entry.size

    def seal_into(self, number: int, plaintext: memoryview, out: memoryview) -> int:
        """Encrypt chunk `number` into the beginning of `out`; returns how many bytes it took."""
        sealed = len(plaintext) + TAG_BYTES
        self._aead.encrypt_into(self._nonce(number), plaintext, self._associated, out[:sealed])
        return sealed

    def open_into(self, number: int, sealed: memoryview, out: memoryview) -> None:
        """Decrypt chunk `number` into `out`, which has exactly its size; raises ChunkError."""
        try:
            self._aead.decrypt_into(self._nonce(number), sealed, self._associated, out)
        except InvalidTag:
            raise ChunkError(
                f"chunk {number + 1} of {self._chunks} of {self._path} does not open"
            ) from None

    def chunk_size(self, number: int) -> int:
        """Return the plaintext size of chunk `number`."""
        return min(CHUNK_BYTES, self._size - number * CHUNK_BYTES)

    def _nonce(self, number: int) -> bytes:
        return self._prefix + struct.pack(">I?", number, number == self._chunks - 1)


def check_commitment(verified: VerifiedManifest, key: DataKey) -> None:
    """Raise KeyCommitmentError unless `key` is the one that the publisher committed to."""
    manifest = verified.manifest
    found = key.commitment(manifest.package_id)
    if not hmac.compare_digest(found, manifest.encryption.key_commitment):
        raise KeyCommitmentError("the data key is not the one that this package commits to")
