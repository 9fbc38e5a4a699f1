"""`tensafe adapter`: from a PEFT folder to a served, encrypted adapter, and back out again."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from adapter_store.base_model import BaseModelRef
from adapter_store.tssp.format import PACKAGE_MEDIA_TYPE
from adapter_store.tssp.recipients import IngestPublicKey
from adapter_store.tssp.writer import pack as pack_adapter
from adapter_store.types import Digest, parse_adapter_name, parse_tenant_id
from gateway.cli import packages
from gateway.cli.client import DEFAULT_URL, GatewayClient, KeyFileOption, UrlOption, open_client
from gateway.cli.errors import CliError, ExitCode
from gateway.cli.files import read_privacy, read_private_key, read_public_key
from gateway.cli.output import (
    JsonOption,
    byte_progress,
    say_fields,
    say_record,
    say_rows,
    spinner,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Pack, check, upload, serve and withdraw LoRA adapters.",
)

FolderArgument = Annotated[
    Path, typer.Argument(help="A PEFT folder: adapter_config.json and adapter_model.safetensors.")
]
PackageArgument = Annotated[Path, typer.Argument(help="A `.tssp` file.")]
ReferenceArgument = Annotated[str, typer.Argument(help="`name`, `name@7` or a digest.")]
NameOption = Annotated[str, typer.Option("--name", help="What clients will call it.")]
VersionOption = Annotated[int, typer.Option("--version", min=1, help="Each upload has its own.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant that owns it.")]
SignerOption = Annotated[
    Path, typer.Option("--publisher-key", help="Private key of `tensafe key publisher new`.")
]
DatasetOption = Annotated[
    str, typer.Option("--dataset", help="What it was trained on, as the privacy ledger knows it.")
]
PrivacyOption = Annotated[
    Path | None, typer.Option("--privacy", help="The trainer's privacy statement (JSON), if any.")
]
DescriptionOption = Annotated[str, typer.Option("--description")]


@app.command()
def pack(
    folder: FolderArgument,
    output: Annotated[Path, typer.Argument(help="The package to write.")],
    name: NameOption,
    version: VersionOption,
    tenant: TenantOption,
    publisher_key: SignerOption,
    dataset: DatasetOption = "unspecified",
    privacy: PrivacyOption = None,
    description: DescriptionOption = "",
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt and sign a PEFT folder into one TSSP package.

    Asks the gateway for two public things: the base model's fingerprint and the key to seal to.
    """
    order = _PackOrder(folder, tenant, name, version, publisher_key, dataset, privacy, description)
    with open_client(url, key_file) as gateway, _create(output) as file:
        digest = _pack(gateway, order, file)
    record = {"package": str(output), "digest": digest, "size_bytes": output.stat().st_size}
    sentence = f"{output}: {digest}\nNext: `tensafe adapter push {output}`."
    say_record(record, as_json=as_json, sentence=sentence)


@app.command()
def inspect(package: PackageArgument, as_json: JsonOption = False) -> None:
    """Show what a package says of itself. Nothing is verified: use `adapter verify` for that."""
    description = packages.describe(package)
    title = f"{package} (unverified: anybody could have written this)"
    say_fields(description, as_json=as_json, title=title)


@app.command()
def verify(
    package: PackageArgument,
    publisher: Annotated[
        list[Path], typer.Option("--publisher", help="A trusted `.pub` file; repeat for several.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check both signatures and every ciphertext digest of a package; needs no secret."""
    trusted = [read_public_key(path) for path in publisher]
    with byte_progress("verifying", package.stat().st_size if package.exists() else None) as bar:
        verified = packages.verify(bar.counting(packages.read_chunks(package)), trusted)
    record = {"verified": True, "digest": verified.digest, "signer": verified.signer}
    sentence = f"Verified: {verified.digest}\nSigned by publisher key {verified.signer}."
    say_record(record, as_json=as_json, sentence=sentence)


@app.command()
def push(
    source: Annotated[Path, typer.Argument(help="A `.tssp` file, or a PEFT folder to pack.")],
    name: Annotated[str | None, typer.Option("--name", help="For a folder.")] = None,
    version: Annotated[int, typer.Option("--version", min=1, help="For a folder.")] = 1,
    tenant: Annotated[str | None, typer.Option("--tenant", help="For a folder.")] = None,
    publisher_key: Annotated[
        Path | None, typer.Option("--publisher-key", help="For a folder.")
    ] = None,
    dataset: DatasetOption = "unspecified",
    privacy: PrivacyOption = None,
    description: DescriptionOption = "",
    activate_it: Annotated[
        bool, typer.Option("--activate/--no-activate", help="Serve it at once.")
    ] = True,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload an adapter, have the pool check it, and serve it under its name."""
    order = None
    if source.is_dir():
        if name is None or tenant is None or publisher_key is None:
            message = "a folder needs --name, --tenant and --publisher-key to be packed"
            raise CliError(message, code="wrong_usage", exit_code=ExitCode.USAGE)
        order = _PackOrder(
            source, tenant, name, version, publisher_key, dataset, privacy, description
        )
    with open_client(url, key_file) as gateway, tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "adapter.tssp" if order else source
        if order:
            with _create(package) as file:
                _pack(gateway, order, file)
        adapter = _upload(gateway, package)
        if activate_it:
            adapter = _activate(gateway, adapter["digest"])
    sentence = f"{adapter['name']}@{adapter['version']} is {adapter['state']}: {adapter['digest']}"
    say_record(adapter, as_json=as_json, sentence=sentence)


@app.command("list")
def list_adapters(
    url: UrlOption = DEFAULT_URL, key_file: KeyFileOption = None, as_json: JsonOption = False
) -> None:
    """List the tenant's adapters."""
    with open_client(url, key_file) as gateway:
        rows = gateway.get("/v1/adapters")["data"]
    columns = ("name", "version", "state", "served", "size_bytes", "digest", "reason")
    say_rows(rows, columns, as_json=as_json, empty="No adapters: `tensafe adapter push FOLDER`.")


@app.command()
def activate(
    reference: ReferenceArgument,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the pool check the weights, then serve this version under the adapter's name.

    Rolling back is activating the older version again.
    """
    with open_client(url, key_file) as gateway:
        adapter = _activate(gateway, reference)
    sentence = f"{adapter['name']} now means version {adapter['version']}."
    say_record(adapter, as_json=as_json, sentence=sentence)


@app.command()
def revoke(
    reference: ReferenceArgument,
    reason: Annotated[str, typer.Option(help="Kept with the adapter, for its owner.")] = "",
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a version for good: no new request is served by it within five seconds."""
    with open_client(url, key_file) as gateway, spinner("revoking"):
        adapter = gateway.post(f"/v1/adapters/{reference}/revoke", {"reason": reason})
    say_record(adapter, as_json=as_json, sentence=f"{reference} is revoked.")


@app.command()
def delete(
    reference: ReferenceArgument,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shred a version: its data key is destroyed first, then its ciphertext is removed."""
    with open_client(url, key_file) as gateway, spinner("deleting"):
        adapter = gateway.delete(f"/v1/adapters/{reference}")
    say_record(adapter, as_json=as_json, sentence=f"{reference} is shredded.")


@dataclass(frozen=True, slots=True)
class _PackOrder:
    """What is to be packed, for whom, and who signs it."""

    folder: Path
    tenant: str
    name: str
    version: int
    publisher_key: Path
    dataset: str
    privacy: Path | None
    description: str


def _pack(gateway: GatewayClient, order: _PackOrder, output: BinaryIO) -> Digest:
    signer = read_private_key(order.publisher_key)
    privacy = read_privacy(order.privacy, order.dataset)
    base_model = gateway.get("/v1/base-model")
    ingest_key = gateway.get("/v1/adapters/ingest-key")
    with byte_progress(f"packing {order.name}@{order.version}", None) as bar:
        return pack_adapter(
            order.folder,
            output,
            tenant=parse_tenant_id(order.tenant),
            name=parse_adapter_name(order.name),
            version=order.version,
            base_model=BaseModelRef(id=base_model["id"], fingerprint=base_model["fingerprint"]),
            signer=signer,
            recipients=[IngestPublicKey.of(base64.b64decode(ingest_key["public_key"]))],
            privacy=privacy,
            description=order.description,
            on_progress=bar,
        )


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for a package, and remove it again if packing fails."""
    try:
        file = path.open("xb")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise CliError(message, code="no_file", exit_code=ExitCode.USAGE) from error
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _upload(gateway: GatewayClient, package: Path) -> dict[str, Any]:
    size = package.stat().st_size if package.exists() else None
    with byte_progress(f"uploading {package.name}", size) as bar:
        uploaded: dict[str, Any] = gateway.upload(
            "/v1/adapters", bar.counting(packages.read_chunks(package)), PACKAGE_MEDIA_TYPE
        )
    return uploaded


def _activate(gateway: GatewayClient, reference: str) -> dict[str, Any]:
    with spinner(f"the pool decrypts and checks {reference[:20]}"):
        activated: dict[str, Any] = gateway.post(f"/v1/adapters/{reference}/activate")
    return activated
