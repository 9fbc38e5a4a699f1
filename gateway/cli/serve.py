"""`tensafe gateway`: set a deployment up and serve it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from adapter_store.keys.keyring import create_keyrings, load_gateway_keys
from gateway.audit.log import open_audit_log
from gateway.cli.errors import CliError, ExitCode
from gateway.cli.output import JsonOption, say_record
from gateway.clock import SystemClock
from gateway.db.engine import open_database
from gateway.db.migrations.run import migrate as migrate_database
from gateway.settings import GatewaySettings
from gateway.tenancy.api_keys import ApiKeys, IssuedKey
from gateway.tenancy.key_text import Pepper
from gateway.tenancy.principal import LOCAL_OPERATOR
from gateway.tenancy.scopes import Scope

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Set up and serve the gateway.")

ADMIN_SCOPES = frozenset({Scope.ADMIN, Scope.AUDIT_READ})
ADMIN_KEY_DAYS = 365


@app.command()
def init(as_json: JsonOption = False) -> None:
    """Make this deployment's folder: keys for each process, the database, one admin key.

    The folder is TENSAFE_HOME (default ~/.tensafe). Repeatable: what exists is kept. The admin
    key is printed once and stored nowhere; `tensafe gateway admin-key` issues another.
    """
    settings = load_settings()
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = settings.keyring.parent
    if not settings.keyring.exists():
        create_keyrings(keys)
    issued = asyncio.run(_prepare(settings))
    record = {
        "home": str(settings.home),
        "keys": str(keys),
        "admin_key": issued.text.reveal() if issued else None,
    }
    key_line = (
        f"Admin key, shown this once:\n{issued.text.reveal()}"
        if issued
        else "An admin key exists already; `tensafe gateway admin-key` issues another."
    )
    sentence = f"Deployment in {settings.home}.\n{key_line}\nNext: `tensafe gateway serve`."
    say_record(record, as_json=as_json, sentence=sentence)


@app.command("admin-key")
def admin_key(
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it works.")] = ADMIN_KEY_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Issue another administrator's key, by right of being on this machine."""
    settings = load_settings()
    issued = asyncio.run(_issue_admin_key(settings, days))
    text = issued.text.reveal()
    record = {"key_id": issued.key.key_id, "admin_key": text}
    say_record(record, as_json=as_json, sentence=f"Admin key, shown this once:\n{text}")


@app.command()
def migrate(as_json: JsonOption = False) -> None:
    """Bring the database's schema to this version's. Safe to run more than once."""
    settings = load_settings()
    asyncio.run(_migrate(settings))
    say_record({"migrated": True}, as_json=as_json, sentence="The database is up to date.")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    uds: Annotated[Path | None, typer.Option(help="Listen on this Unix socket instead.")] = None,
) -> None:
    """Serve the gateway until it is told to stop; finishes what it began."""
    from gateway.server import run  # slow to import: only when serving

    run(load_settings(), host=host, port=port, uds=uds)


def load_settings() -> GatewaySettings:
    """Return the settings from the environment; raises CliError that names what is wrong."""
    try:
        return GatewaySettings()
    except ValidationError as error:
        problems = "; ".join(
            f"GATEWAY_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        message = f"wrong setting: {problems}"
        raise CliError(message, code="wrong_settings", exit_code=ExitCode.USAGE) from error


async def _prepare(settings: GatewaySettings) -> IssuedKey | None:
    await _migrate(settings)
    if await _has_admin_key(settings):
        return None
    return await _issue_admin_key(settings, ADMIN_KEY_DAYS)


async def _migrate(settings: GatewaySettings) -> None:
    async with open_database(settings.database_url) as database:
        await migrate_database(database)


async def _has_admin_key(settings: GatewaySettings) -> bool:
    now = datetime.now(UTC)
    async with _open_api_keys(settings) as keys:
        return any(
            Scope.ADMIN in key.scopes
            and key.revoked_at is None
            and (key.expires_at is None or key.expires_at > now)
            for key in await keys.list()
        )


async def _issue_admin_key(settings: GatewaySettings, days: int) -> IssuedKey:
    async with _open_api_keys(settings) as keys:
        return await keys.issue(
            LOCAL_OPERATOR,
            tenant=None,
            scopes=ADMIN_SCOPES,
            label="administrator",
            expires_at=datetime.now(UTC) + timedelta(days=days),
        )


@asynccontextmanager
async def _open_api_keys(settings: GatewaySettings) -> AsyncIterator[ApiKeys]:
    secrets = load_gateway_keys(settings.keyring)
    pepper = Pepper(secrets.pepper_version, secrets.pepper)
    clock = SystemClock()
    async with (
        open_database(settings.database_url) as database,
        open_audit_log(database, clock, timeout_s=settings.audit_timeout_s) as audit,
    ):
        yield ApiKeys(database, audit, clock, pepper=pepper, environment=settings.environment)
