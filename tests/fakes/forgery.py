"""What attackers do to packages: a table of every kind, each named by what is then wrong.

Some have only the bytes; others are registered publishers who sign what they should not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_store import canonical, errors
from adapter_store.tssp.container import Header
from adapter_store.tssp.format import ACTIVATION_TYPE, MANIFEST_TYPE
from adapter_store.tssp.signing import PublisherPrivateKey, sign_envelope
from tests.fakes.packages import parse

Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Forger:
    """A genuine package, another genuine one of the same publisher, and two publishers' keys."""

    package: bytes
    other: bytes
    publisher: PublisherPrivateKey
    stranger: PublisherPrivateKey

    def envelope(self, change: Change) -> bytes:
        """Return the package with its envelope changed, as anybody can."""
        header, payload = parse(self.package)
        envelope = json.loads(header.envelope)
        change(envelope)
        return Header(canonical.encode(envelope), header.recipients).to_bytes() + payload

    def recipients(self, recipients: bytes) -> bytes:
        """Return the package with another recipients block, as anybody can."""
        header, payload = parse(self.package)
        return Header(header.envelope, recipients).to_bytes() + payload

    def manifest(self, change: Change, *, signer: PublisherPrivateKey | None = None) -> bytes:
        """Return the package with its manifest changed and signed again, as a publisher can."""
        header, _ = parse(self.package)
        manifest = json.loads(base64.b64decode(json.loads(header.envelope)["payload"]))
        change(manifest)
        return self.signed(canonical.encode(manifest), signer=signer)

    def signed(
        self,
        manifest: bytes,
        *,
        signer: PublisherPrivateKey | None = None,
        payload_type: str = MANIFEST_TYPE,
    ) -> bytes:
        """Return the package with this manifest, whatever it is, signed."""
        header, payload = parse(self.package)
        envelope = sign_envelope(payload_type, manifest, signer or self.publisher)
        return Header(envelope, header.recipients).to_bytes() + payload

    @property
    def manifest_bytes(self) -> bytes:
        """The genuine manifest."""
        return base64.b64decode(json.loads(parse(self.package)[0].envelope)["payload"])


@dataclass(frozen=True)
class Forgery:
    """How a forgery is made, and the error that refuses it."""

    make: Callable[[Forger], bytes]
    error: type[errors.AdapterStoreError]


def _set(**members: Any) -> Change:
    return lambda target: target.update(members)


def _in(name: str, change: Change) -> Change:
    return lambda target: change(target[name])


def _sections_swapped(forger: Forger) -> bytes:
    header, payload = parse(forger.package)
    return Header(header.recipients, header.envelope).to_bytes() + payload


def _files_swapped(forger: Forger) -> bytes:
    header, payload = parse(forger.package)
    first = json.loads(forger.manifest_bytes)["files"][0]["ciphertext_size"]
    return header.to_bytes() + payload[first:] + payload[:first]


def _payload_of_another(forger: Forger) -> bytes:
    return parse(forger.package)[0].to_bytes() + parse(forger.other)[1]


def _flip(position: int) -> Callable[[Forger], bytes]:
    def make(forger: Forger) -> bytes:
        package = bytearray(forger.package)
        package[position] ^= 1
        return bytes(package)

    return make


def _signature(index: int, change: Callable[[bytes], bytes]) -> Callable[[Forger], bytes]:
    def apply(envelope: dict[str, Any]) -> None:
        signature = envelope["signatures"][index]
        raw = base64.b64decode(signature["sig"])
        signature["sig"] = base64.b64encode(change(raw)).decode()

    return lambda forger: forger.envelope(apply)


def _flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def _signature_by_stranger(index: int) -> Callable[[Forger], bytes]:
    """One of the publisher's algorithms is broken: the other signature is the attacker's own."""

    def make(forger: Forger) -> bytes:
        forged = json.loads(parse(forger.manifest(_set(), signer=forger.stranger))[0].envelope)
        replacement = forged["signatures"][index]["sig"]
        return forger.envelope(lambda e: e["signatures"][index].update(sig=replacement))

    return make


def _deep(forger: Forger) -> bytes:
    return forger.signed(b'{"spec":' + b"[" * 5_000 + b"]" * 5_000 + b"}")


def _repeated_member(forger: Forger) -> bytes:
    return forger.signed(b'{"spec":"tssp/1",' + forger.manifest_bytes[1:])


def _with_manifest(*changes: Change) -> Callable[[Forger], bytes]:
    def apply(manifest: dict[str, Any]) -> None:
        for change in changes:
            change(manifest)

    return lambda forger: forger.manifest(apply)


FORGERIES: Mapping[str, Forgery] = {
    # the container
    "empty": Forgery(lambda f: b"", errors.TruncatedError),
    "not-a-package": Forgery(lambda f: b"PK\x03\x04" + f.package[4:], errors.NotAPackageError),
    "pickle": Forgery(lambda f: b"\x80\x04\x95" + b"\0" * 64, errors.NotAPackageError),
    "newer-container-version": Forgery(
        lambda f: b"TSSP\x02" + f.package[5:], errors.UnsupportedVersionError
    ),
    "line-ends-rewritten": Forgery(
        lambda f: f.package.replace(b"\r\n", b"\n", 1), errors.UnsupportedVersionError
    ),
    "truncated-in-magic": Forgery(lambda f: f.package[:5], errors.TruncatedError),
    "truncated-in-envelope": Forgery(lambda f: f.package[:500], errors.TruncatedError),
    "truncated-in-payload": Forgery(lambda f: f.package[:-1], errors.TruncatedError),
    "trailing-byte": Forgery(lambda f: f.package + b"\0", errors.TrailingDataError),
    "two-packages-joined": Forgery(lambda f: f.package * 2, errors.TrailingDataError),
    "envelope-length-huge": Forgery(
        lambda f: f.package[:8] + b"\xff" * 4 + f.package[12:], errors.TooLargeError
    ),
    "recipients-length-huge": Forgery(
        lambda f: Header(parse(f.package)[0].envelope, b"").to_bytes()[:-4] + b"\xff" * 4,
        errors.TooLargeError,
    ),
    "envelope-and-recipients-swapped": Forgery(_sections_swapped, errors.InvalidEnvelopeError),
    # the signatures
    "envelope-not-json": Forgery(
        lambda f: Header(b"not JSON", b"[]").to_bytes(), errors.InvalidEnvelopeError
    ),
    "envelope-not-utf8": Forgery(
        lambda f: Header(b'{"payload":"\xff"}', b"[]").to_bytes(), errors.InvalidEnvelopeError
    ),
    "envelope-with-unknown-member": Forgery(
        lambda f: f.envelope(_set(extra=1)), errors.InvalidEnvelopeError
    ),
    "envelope-with-spaces": Forgery(
        lambda f: Header(
            parse(f.package)[0].envelope.replace(b'":', b'": ', 1), parse(f.package)[0].recipients
        ).to_bytes(),
        errors.NotCanonicalError,
    ),
    "envelope-of-another-payload-type": Forgery(
        lambda f: f.signed(f.manifest_bytes, payload_type=ACTIVATION_TYPE),
        errors.InvalidEnvelopeError,
    ),
    "payload-type-relabelled": Forgery(
        lambda f: f.envelope(_set(payloadType=ACTIVATION_TYPE)), errors.InvalidEnvelopeError
    ),
    "unsigned": Forgery(lambda f: f.envelope(_set(signatures=[])), errors.MissingSignatureError),
    "ed25519-signature-stripped": Forgery(
        lambda f: f.envelope(_in("signatures", lambda s: s.pop(0))), errors.MissingSignatureError
    ),
    "ml-dsa-signature-stripped": Forgery(
        lambda f: f.envelope(_in("signatures", lambda s: s.pop(1))), errors.MissingSignatureError
    ),
    "ed25519-signature-twice": Forgery(
        lambda f: f.envelope(_in("signatures", lambda s: s.__setitem__(1, s[0]))),
        errors.MissingSignatureError,
    ),
    "signatures-in-other-order": Forgery(
        lambda f: f.envelope(_in("signatures", lambda s: s.reverse())),
        errors.MissingSignatureError,
    ),
    "third-signature": Forgery(
        lambda f: f.envelope(_in("signatures", lambda s: s.append(s[0]))),
        errors.MissingSignatureError,
    ),
    "ed25519-signature-changed": Forgery(_signature(0, _flipped), errors.SignatureError),
    "ml-dsa-signature-changed": Forgery(_signature(1, _flipped), errors.SignatureError),
    "ed25519-signature-empty": Forgery(_signature(0, lambda raw: b""), errors.SignatureError),
    "ml-dsa-signature-empty": Forgery(_signature(1, lambda raw: b""), errors.SignatureError),
    "ed25519-signature-by-another": Forgery(_signature_by_stranger(0), errors.SignatureError),
    "ml-dsa-signature-by-another": Forgery(_signature_by_stranger(1), errors.SignatureError),
    "signed-by-a-stranger": Forgery(
        lambda f: f.manifest(_set(), signer=f.stranger), errors.UnknownSignerError
    ),
    "manifest-changed-after-signing": Forgery(
        lambda f: f.envelope(
            _set(
                payload=base64.b64encode(
                    f.manifest_bytes.replace(b'"version":1', b'"version":2')
                ).decode()
            )
        ),
        errors.SignatureError,
    ),
    # the manifest
    "manifest-of-spec-2": Forgery(
        _with_manifest(_set(spec="tssp/2")), errors.UnsupportedVersionError
    ),
    "manifest-of-spec-0": Forgery(
        _with_manifest(_set(spec="tssp/0")), errors.UnsupportedVersionError
    ),
    "manifest-not-json": Forgery(lambda f: f.signed(b"\x80\x04."), errors.InvalidManifestError),
    "manifest-deeply-nested": Forgery(_deep, errors.InvalidManifestError),
    "manifest-with-repeated-member": Forgery(_repeated_member, errors.NotCanonicalError),
    "manifest-with-newline": Forgery(
        lambda f: f.signed(f.manifest_bytes + b"\n"), errors.NotCanonicalError
    ),
    "manifest-with-unknown-member": Forgery(
        _with_manifest(_set(trust_me=True)), errors.InvalidManifestError
    ),
    "manifest-without-tenant": Forgery(
        _with_manifest(lambda m: m.pop("tenant")), errors.InvalidManifestError
    ),
    "manifest-with-path-for-tenant": Forgery(
        _with_manifest(_set(tenant="../globex")), errors.InvalidManifestError
    ),
    "manifest-with-path-for-name": Forgery(
        _with_manifest(_set(name="../../etc")), errors.InvalidManifestError
    ),
    "manifest-with-text-for-version": Forgery(
        _with_manifest(_set(version="1")), errors.InvalidManifestError
    ),
    "manifest-with-huge-version": Forgery(
        _with_manifest(_set(version=2**40)), errors.InvalidManifestError
    ),
    "manifest-with-random-uuid": Forgery(
        _with_manifest(_set(package_id="9f0c2b52-4bd1-4c57-8b6d-1d5b2f7b9f10")),
        errors.InvalidManifestError,
    ),
    "manifest-with-weaker-aead": Forgery(
        _with_manifest(_in("encryption", _set(aead="AES-128-GCM-STREAM"))),
        errors.InvalidManifestError,
    ),
    "manifest-with-other-chunk-size": Forgery(
        _with_manifest(_in("encryption", _set(chunk_size=16))), errors.InvalidManifestError
    ),
    "manifest-with-path-outside": Forgery(
        _with_manifest(_in("files", _in(1, _set(path="../adapter_model.safetensors")))),
        errors.InvalidManifestError,
    ),
    "manifest-with-pickle-file": Forgery(
        _with_manifest(_in("files", _in(1, _set(path="adapter_model.bin")))),
        errors.InvalidManifestError,
    ),
    "manifest-with-third-file": Forgery(
        _with_manifest(_in("files", lambda files: files.append(dict(files[1], path="run.py")))),
        errors.InvalidManifestError,
    ),
    "manifest-without-files": Forgery(_with_manifest(_set(files=[])), errors.InvalidManifestError),
    "manifest-with-files-in-other-order": Forgery(
        _with_manifest(_in("files", lambda files: files.reverse())), errors.InvalidManifestError
    ),
    "manifest-with-impossible-size": Forgery(
        _with_manifest(_in("files", _in(1, _set(size=1)))), errors.InvalidManifestError
    ),
    "manifest-with-unknown-privacy-event": Forgery(
        _with_manifest(_set(privacy={"kind": "trust-me", "dataset": "x"})),
        errors.InvalidManifestError,
    ),
    # the policies
    "for-another-tenant": Forgery(_with_manifest(_set(tenant="globex")), errors.WrongTenantError),
    "for-another-base-model": Forgery(
        _with_manifest(_in("base_model", _set(fingerprint="0" * 64))),
        errors.WrongBaseModelError,
    ),
    "for-homomorphic-mode": Forgery(
        _with_manifest(_set(mode="he")), errors.UnsupportedPackageError
    ),
    "with-dora": Forgery(
        _with_manifest(_in("adapter", _set(use_dora=True))), errors.UnsupportedPackageError
    ),
    # the recipients
    "recipients-empty": Forgery(lambda f: f.recipients(b"[]"), errors.InvalidRecipientsError),
    "recipients-not-json": Forgery(lambda f: f.recipients(b"\0"), errors.InvalidRecipientsError),
    "recipients-of-unknown-type": Forgery(
        lambda f: f.recipients(b'[{"type":"plain"}]'), errors.InvalidRecipientsError
    ),
    "recipients-too-many": Forgery(
        lambda f: f.recipients(
            canonical.encode([json.loads(parse(f.package)[0].recipients)[0]] * 17)
        ),
        errors.InvalidRecipientsError,
    ),
    # the payload
    "payload-bit-flipped-first": Forgery(
        lambda f: _flip(len(parse(f.package)[0].to_bytes()))(f), errors.DigestMismatchError
    ),
    "payload-bit-flipped-last": Forgery(_flip(-1), errors.DigestMismatchError),
    "payload-of-another-package": Forgery(_payload_of_another, errors.DigestMismatchError),
    "payload-files-swapped": Forgery(_files_swapped, errors.DigestMismatchError),
}
