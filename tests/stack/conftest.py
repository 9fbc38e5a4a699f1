"""One deployment for all tests of the whole stack: the engine takes half a minute to start."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local.stack import LocalStack
from tests.fakes.tiny_llama import make_adapter, make_model
from tests.stack.deployment import BASE, Deployment

POOL_OPTIONS = (
    "--dtype=float32",
    "--max-model-len=512",
    "--max-num-seqs=16",
    "--max-loras=4",
    "--max-lora-rank=8",
    "--kv-cache-gib=0.25",
    "--probe-interval-s=2",
)
SETTINGS = {"GATEWAY_MAX_PACKAGE_BYTES": str(8 << 20), "GATEWAY_ENVIRONMENT": "test"}


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A gateway and a pool serving `support` of acme and `notes` of globex."""
    began_at = time.time() - 1  # the file systems' clocks are coarse
    scratch = tmp_path_factory.mktemp("stack")
    model = make_model(scratch / "model")
    # Not under pytest's folder: the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as folder, ExitStack() as clients:
        home = Path(folder) / "home"
        with LocalStack.create(
            home,
            model=model,
            served_model_name=BASE,
            pool_arguments=POOL_OPTIONS,
            settings=SETTINGS,
        ) as stack:
            stack.start()
            stack.wait_until_ready()
            deployment = Deployment(
                stack, model, scratch, secrets.randbelow(2**31), clients, began_at
            )
            tenants = {"acme": "support", "globex": "notes"}
            for seed, (tenant, adapter) in enumerate(tenants.items(), start=deployment.seed):
                folder_of_adapter = make_adapter(model, scratch / tenant, seed=seed)
                deployment.onboard(tenant, adapter=adapter, adapter_dir=folder_of_adapter)
            yield deployment


@pytest.fixture(autouse=True)
def _still_serving(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to one tenant, the other is still served afterwards."""
    yield
    if "deployment" in request.fixturenames:
        deployment: Deployment = request.getfixturevalue("deployment")
        assert deployment.complete(deployment.globex, "notes", [256, 65, 66], 2)
