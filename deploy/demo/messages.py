"""What the demo and the process that trains for it tell each other, as JSON lines in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from adapter_store.tssp.privacy import PrivacyStatement

PLAIN_TENANT = "acme"
PRIVATE_TENANT = "globex"


class TrainingJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make the base model unless it is there, then both adapters."""

    model_dir: str
    plaintext_dir: str  # each tenant's adapter goes to a folder of its name in here
    max_seconds: float  # for one adapter


class Progressed(msgspec.Struct, frozen=True, tag="progressed"):
    """`subject` is "base" or a tenant."""

    subject: str
    done: int
    total: int
    loss: float | None


class ModelReady(msgspec.Struct, frozen=True, tag="model_ready"):
    """The base model's folder is complete."""


class AdapterReady(msgspec.Struct, frozen=True, tag="adapter_ready"):
    """A tenant's adapter folder is complete."""

    tenant: str
    steps: int
    records: int
    first_loss: float
    last_loss: float
    seconds: float
    privacy: PrivacyStatement


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Training cannot go on; the message says why."""

    message: str


Message = Progressed | ModelReady | AdapterReady | Failed


class MessageWriter:
    """Appends messages to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, message: Message) -> None:
        """Append one message."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(message) + b"\n")


class MessageReader:
    """Reads what was appended since it last looked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __iter__(self) -> Iterator[Message]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                yield msgspec.json.decode(line, type=Message)
