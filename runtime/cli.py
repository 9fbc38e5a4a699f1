"""`tensafe pool`: run a base model with its tenants' adapters."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from adapter_store.errors import AdapterStoreError
from runtime.agent import run_pool
from runtime.errors import PoolConfigurationError, PoolError
from runtime.model_source import locate_model
from runtime.settings import EngineOptions, LivenessOptions, PoolSettings

EXIT_FAILED = 1
EXIT_MISCONFIGURED = 2

app = typer.Typer(
    add_completion=False,
    help="Serve a base model and its tenants' encrypted adapters with vLLM.",
    no_args_is_help=True,
)

ENGINE = "Engine (passed on to vLLM)"
PLACES = "Places"
LIVENESS = "Liveness"


@app.callback()
def pool() -> None:
    """Serve a base model and its tenants' encrypted adapters with vLLM."""


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="Folder of the base model, or its Hub id.")],
    home: Annotated[
        Path,
        typer.Option(
            envvar="TENSAFE_HOME", help="Where the defaults below are.", rich_help_panel=PLACES
        ),
    ] = Path("~/.tensafe"),
    pool_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="POOL_DIR", help="Sockets of this pool. [HOME/pool]", rich_help_panel=PLACES
        ),
    ] = None,
    keyring: Annotated[
        Path | None,
        typer.Option(
            envvar="POOL_KEYRING",
            help="The pool's keys. [HOME/keys/pool.json]",
            rich_help_panel=PLACES,
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            envvar="POOL_OBJECT_STORE_URL",
            help="Object store of the packages. [file://HOME/objects]",
            rich_help_panel=PLACES,
        ),
    ] = None,
    served_model_name: Annotated[
        str | None,
        typer.Option(
            help="What clients call the base model. [name of MODEL]", rich_help_panel=ENGINE
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=ENGINE)
    ] = "auto",
    max_model_len: Annotated[
        int | None, typer.Option(help="Context length, in tokens.", rich_help_panel=ENGINE)
    ] = None,
    max_num_seqs: Annotated[
        int, typer.Option(help="Requests in one batch.", rich_help_panel=ENGINE)
    ] = 64,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens in one batch.", rich_help_panel=ENGINE)
    ] = None,
    max_loras: Annotated[
        int, typer.Option(help="Adapters in one batch.", rich_help_panel=ENGINE)
    ] = 8,
    max_cpu_loras: Annotated[
        int, typer.Option(help="Adapters kept ready in each worker.", rich_help_panel=ENGINE)
    ] = 64,
    max_lora_rank: Annotated[
        int, typer.Option(help="Largest rank of an adapter.", rich_help_panel=ENGINE)
    ] = 16,
    tensor_parallel_size: Annotated[
        int, typer.Option("--tensor-parallel-size", "--tp", rich_help_panel=ENGINE)
    ] = 1,
    pipeline_parallel_size: Annotated[
        int, typer.Option("--pipeline-parallel-size", "--pp", rich_help_panel=ENGINE)
    ] = 1,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Fraction of device memory to use.", rich_help_panel=ENGINE)
    ] = None,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(help="Memory for the KV cache. [1 on a CPU]", rich_help_panel=ENGINE),
    ] = None,
    reserved_cpus: Annotated[
        int,
        typer.Option(
            min=0,
            help="CPUs that a CPU engine leaves to the API server, the gateway and the system.",
            rich_help_panel=ENGINE,
        ),
    ] = 1,
    enable_prefix_caching: Annotated[bool, typer.Option(rich_help_panel=ENGINE)] = True,
    enable_chunked_prefill: Annotated[bool, typer.Option(rich_help_panel=ENGINE)] = True,
    start_timeout_s: Annotated[
        float,
        typer.Option(help="How long the engine may take to come up.", rich_help_panel=LIVENESS),
    ] = 600.0,
    probe_interval_s: Annotated[
        float, typer.Option(help="Between two one-token generations.", rich_help_panel=LIVENESS)
    ] = 5.0,
    probe_timeout_s: Annotated[
        float,
        typer.Option(
            help="How long one may take; three in a row restart the engine.",
            rich_help_panel=LIVENESS,
        ),
    ] = 10.0,
) -> None:
    """Run a pool in the foreground: an agent with the keys, and vLLM as its child.

    The gateway finds it under HOME/pool. Ctrl-C stops everything.

    Exit status: 0 after Ctrl-C or SIGTERM, 1 if the engine could not be started, 2 if a
    setting, a key file or the model cannot work.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    home = home.expanduser()
    try:
        source = locate_model(model)
        settings = PoolSettings(
            model_dir=source.directory,
            served_model_name=served_model_name or source.name,
            pool_dir=pool_dir or home / "pool",
            keyring=keyring or home / "keys" / "pool.json",
            object_store_url=objects or f"file://{home.resolve()}/objects",
            engine=EngineOptions(
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                max_loras=max_loras,
                max_cpu_loras=max_cpu_loras,
                max_lora_rank=max_lora_rank,
                tensor_parallel_size=tensor_parallel_size,
                pipeline_parallel_size=pipeline_parallel_size,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_gib=kv_cache_gib,
                reserved_cpus=reserved_cpus,
                enable_prefix_caching=enable_prefix_caching,
                enable_chunked_prefill=enable_chunked_prefill,
            ),
            liveness=LivenessOptions(
                start_timeout_s=start_timeout_s,
                probe_interval_s=probe_interval_s,
                probe_timeout_s=probe_timeout_s,
            ),
        )
        asyncio.run(run_pool(settings, os.environ))
    except (PoolConfigurationError, AdapterStoreError) as error:
        _fail(error, EXIT_MISCONFIGURED)
    except PoolError as error:
        _fail(error, EXIT_FAILED)


def _fail(error: Exception, status: int) -> NoReturn:
    typer.secho(f"tensafe pool: {error}", fg=typer.colors.RED, err=True)
    raise typer.Exit(status)
