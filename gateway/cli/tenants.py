"""`tensafe tenant`: who may own keys and adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.client import DEFAULT_URL, KeyFileOption, UrlOption, open_client
from gateway.cli.output import JsonOption, say_record, say_rows

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Tenants: who may own keys and adapters."
)

TenantArgument = Annotated[str, typer.Argument(help="The tenant's id, for example `acme`.")]


@app.command()
def create(
    tenant: TenantArgument,
    display_name: Annotated[str, typer.Option(help="A name for people.")] = "",
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant. Needs an administrator's key."""
    with open_client(url, key_file) as gateway:
        created = gateway.post("/admin/v1/tenants", {"id": tenant, "display_name": display_name})
    sentence = f"Tenant {tenant} exists. Next: `tensafe key create {tenant}`."
    say_record(created, as_json=as_json, sentence=sentence)


@app.command("list")
def list_tenants(
    url: UrlOption = DEFAULT_URL, key_file: KeyFileOption = None, as_json: JsonOption = False
) -> None:
    """List every tenant."""
    with open_client(url, key_file) as gateway:
        rows = gateway.get("/admin/v1/tenants")["data"]
    columns = ("id", "display_name", "created_at", "disabled_at")
    say_rows(rows, columns, as_json=as_json, empty="No tenants yet: `tensafe tenant create acme`.")


@app.command()
def disable(
    tenant: TenantArgument,
    url: UrlOption = DEFAULT_URL,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop serving a tenant: its keys no longer authenticate, its adapters stay stored."""
    with open_client(url, key_file) as gateway:
        disabled = gateway.delete(f"/admin/v1/tenants/{tenant}")
    say_record(disabled, as_json=as_json, sentence=f"Tenant {tenant} is disabled.")
