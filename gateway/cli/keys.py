"""`tensafe key`: API keys of tenants, and publisher keys that sign packages."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from adapter_store.tssp.signing import PublisherPrivateKey
from gateway.cli.client import DEFAULT_URL, KeyFileOption, UrlOption, open_client
from gateway.cli.errors import CliError
from gateway.cli.files import read_public_key
from gateway.cli.output import JsonOption, say_record, say_rows
from gateway.tenancy.scopes import Scope

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="API keys (who may call) and publisher keys (who may sign).",
)
publisher = typer.Typer(
    no_args_is_help=True, help="Publisher keys: whose signature a tenant trusts on its packages."
)
app.add_typer(publisher, name="publisher")

TENANT_SCOPES = [Scope.INFERENCE, Scope.ADAPTERS_READ, Scope.ADAPTERS_WRITE]
DEFAULT_OVERLAP_S = 3600

TenantArgument = Annotated[str, typer.Argument(help="The tenant's id.")]
KeyIdArgument = Annotated[str, typer.Argument(help="The key's id: the part after `tsk_live_`.")]


@app.command()
def create(
    tenant: TenantArgument,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; repeat for several.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long it works.")] = None,
    label: Annotated[str, typer.Option(help="A note for people.")] = "",
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue an API key to a tenant. Its text is shown this once and stored nowhere."""
    body = {
        "tenant": tenant,
        "scopes": list(scope or TENANT_SCOPES),
        "label": label,
        "expires_at": (datetime.now(UTC) + timedelta(days=days)).isoformat() if days else None,
    }
    with open_client(url, key_file) as gateway:
        issued = gateway.post("/admin/v1/keys", body)
    _say_issued(issued, as_json=as_json)


@app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List API keys: never their secrets, which nobody has."""
    query = {"tenant": tenant} if tenant else {}
    with open_client(url, key_file) as gateway:
        rows = gateway.get("/admin/v1/keys", **query)["data"]
    columns = ("id", "tenant", "scopes", "label", "created_at", "expires_at", "revoked_at")
    say_rows(rows, columns, as_json=as_json, empty="No keys: `tensafe key create TENANT`.")


@app.command()
def rotate(
    key_id: KeyIdArgument,
    overlap_s: Annotated[
        int, typer.Option(min=0, help="Seconds for which the old key still works.")
    ] = DEFAULT_OVERLAP_S,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a successor with the same rights; both work during the overlap."""
    with open_client(url, key_file) as gateway:
        issued = gateway.post(f"/admin/v1/keys/{key_id}/rotate", {"overlap_s": overlap_s})
    _say_issued(issued, as_json=as_json)


@app.command()
def revoke(
    key_id: KeyIdArgument,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a key, on every replica within five seconds."""
    with open_client(url, key_file) as gateway:
        revoked = gateway.delete(f"/admin/v1/keys/{key_id}")
    say_record(revoked, as_json=as_json, sentence=f"Key {key_id} is revoked.")


@publisher.command("new")
def publisher_new(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; PATH.pub beside it.")],
    as_json: JsonOption = False,
) -> None:
    """Make a signing key pair (Ed25519 and ML-DSA-65) on this machine; nothing is sent."""
    key = PublisherPrivateKey.generate()
    public_path = path.with_name(path.name + ".pub")
    _create_private(path, key.to_json())
    public_path.write_bytes(key.public_key.to_json())
    record = {
        "key_id": key.public_key.key_id,
        "private_key": str(path),
        "public_key": str(public_path),
    }
    sentence = (
        f"Publisher key {key.public_key.key_id}: keep {path} secret, register {public_path}\n"
        f"with `tensafe key publisher register TENANT {public_path}`."
    )
    say_record(record, as_json=as_json, sentence=sentence)


@publisher.command("register")
def publisher_register(
    tenant: TenantArgument,
    public_key: Annotated[Path, typer.Argument(help="The `.pub` file.")],
    label: Annotated[str, typer.Option(help="A note for people.")] = "",
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trust packages of this tenant that are signed with this key."""
    key = read_public_key(public_key)
    body = {"public_key": json.loads(key.to_json()), "label": label}
    with open_client(url, key_file) as gateway:
        registered = gateway.post(f"/admin/v1/tenants/{tenant}/publisher-keys", body)
    sentence = f"{tenant} trusts publisher key {key.key_id}."
    say_record(registered, as_json=as_json, sentence=sentence)


@publisher.command("list")
def publisher_list(
    tenant: TenantArgument,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys whose signatures a tenant trusts."""
    with open_client(url, key_file) as gateway:
        rows = gateway.get(f"/admin/v1/tenants/{tenant}/publisher-keys")["data"]
    columns = ("id", "label", "created_at", "revoked_at")
    say_rows(rows, columns, as_json=as_json, empty="None: `tensafe key publisher register`.")


@publisher.command("revoke")
def publisher_revoke(
    tenant: TenantArgument,
    key_id: Annotated[str, typer.Argument(help="The publisher key's id.")],
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept no more packages signed with this key."""
    with open_client(url, key_file) as gateway:
        revoked = gateway.delete(f"/admin/v1/tenants/{tenant}/publisher-keys/{key_id}")
    sentence = f"{tenant} no longer trusts publisher key {key_id}."
    say_record(revoked, as_json=as_json, sentence=sentence)


def _say_issued(issued: dict[str, Any], *, as_json: bool) -> None:
    sentence = f"Key {issued['id']}, shown this once:\n{issued['key']}"
    say_record(issued, as_json=as_json, sentence=sentence)


def _create_private(path: Path, content: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CliError(f"{path} exists and is kept; choose another path", code="exists") from error
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}", code="no_file") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
