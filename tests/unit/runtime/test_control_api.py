"""The control API: bounded input, one shape of error, and eviction from both memories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapter_store.errors import StorageUnavailableError
from adapter_store.objects.paths import PackagePaths
from adapter_store.types import EngineName
from runtime.broker.memory import AdapterMemory
from runtime.control_api import ControlServices, create_control_app
from runtime.engine_client import EngineState
from runtime.errors import EngineUnavailableError
from runtime.supervisor import Health
from tests.fakes.packages import ACME, World, adapter_folder

pytestmark = pytest.mark.anyio


@dataclass
class FakeEngine:
    evicted: list[EngineName] = field(default_factory=list)
    away: bool = False

    async def evict(self, name: EngineName) -> bool:
        if self.away:
            raise EngineUnavailableError("the engine did not answer")
        self.evicted.append(name)
        return False


@dataclass
class FakePool:
    health: Health = field(default_factory=lambda: Health("ready"))
    state: EngineState | None = field(
        default_factory=lambda: EngineState(
            hooks="tensafe", max_model_len=512, max_lora_rank=8, adapters=[], locks=0
        )
    )


@dataclass
class Control:
    """A control API over a deployment in memory, and a fake engine."""

    world: World
    engine: FakeEngine = field(default_factory=FakeEngine)
    pool: FakePool = field(default_factory=FakePool)
    admission: Any = None

    def __post_init__(self) -> None:
        self.loader = self.world.loader()
        self.memory = AdapterMemory(self.loader.load, max_bytes=1 << 20, ttl_s=60)

    async def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        services = ControlServices(
            served_model_name="tiny",
            fingerprint=self.world.base_model.fingerprint,
            max_lora_rank=8,
            keys=self.world.keys,
            admission=self.admission or self.loader,
            memory=self.memory,
            engine=self.engine,
            pool=self.pool,
        )
        transport = httpx2.ASGITransport(create_control_app(services))
        async with httpx2.AsyncClient(transport=transport, base_url="http://pool") as client:
            return await client.request(method, f"/control/v1{path}", **more)


@pytest.fixture
def control() -> Control:
    return Control(World())


@pytest.fixture
async def uploaded(control: Control, tmp_path: Path) -> EngineName:
    package = control.world.pack(adapter_folder(tmp_path / "adapter"))
    digest = (await control.world.ingest(package)).digest
    await control.world.record(digest, "admitting")
    return EngineName(ACME, digest, 0)


async def test_admission_returns_a_report_and_keeps_the_data_key(
    control: Control, uploaded: EngineName
) -> None:
    body = {"tenant": "acme", "digest": uploaded.digest}

    answer = await control.ask("POST", "/adapters/admit", json=body)
    again = await control.ask("POST", "/adapters/admit", json=body)

    assert answer.status_code == again.status_code == 200
    assert answer.json()["report"]["max_rank"] == 4
    assert PackagePaths(ACME, uploaded.digest).data_key in await control.world.stored()


async def test_what_the_store_refuses_is_unprocessable_with_its_own_code(
    control: Control, uploaded: EngineName
) -> None:
    await control.world.record(uploaded.digest, "revoked")

    answer = await control.ask(
        "POST", "/adapters/admit", json={"tenant": "acme", "digest": uploaded.digest}
    )

    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message"}


async def test_a_store_that_is_away_is_unavailable(control: Control) -> None:
    class Away:
        def admit(self, *_: Any) -> Any:
            raise StorageUnavailableError("the store cannot be reached")

    control.admission = Away()

    answer = await control.ask(
        "POST", "/adapters/admit", json={"tenant": "acme", "digest": "0" * 64}
    )

    assert answer.status_code == 503


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"tenant": "acme"}',
        b'{"tenant": "acme", "digest": 7}',
        b'{"tenant": "acme", "digest": "zz"}',
        b'{"tenant": "../x", "digest": "' + b"0" * 64 + b'"}',
        b'{"tenant": "acme", "digest": "' + b"0" * 64 + b'", "more": 1}',
        b'{"tenant": "' + b"a" * 5000 + b'"}',
    ],
)
async def test_malformed_bodies_are_bad_requests(control: Control, content: bytes) -> None:
    answer = await control.ask("POST", "/adapters/admit", content=content)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"]


async def test_eviction_reaches_the_engine_and_wipes_the_brokers_copy(
    control: Control, uploaded: EngineName
) -> None:
    control.loader.admit(ACME, uploaded.digest)
    await control.world.record(uploaded.digest, "active")
    held = control.memory.get(uploaded)

    answer = await control.ask("POST", "/adapters/evict", json={"engine_name": str(uploaded)})

    assert answer.json() == {"resident": False}
    assert control.engine.evicted == [uploaded]
    assert held.share() is None
    assert len(control.memory) == 0


async def test_an_engine_that_does_not_answer_leaves_eviction_undone_and_says_so(
    control: Control,
) -> None:
    control.engine.away = True

    answer = await control.ask(
        "POST", "/adapters/evict", json={"engine_name": "ts-acme-" + "0" * 64 + "-1"}
    )

    assert answer.status_code == 503


async def test_an_engine_that_is_being_started_holds_nothing(control: Control) -> None:
    control.engine.away = True
    control.pool.health = Health("starting", "again")

    answer = await control.ask(
        "POST", "/adapters/evict", json={"engine_name": "ts-acme-" + "0" * 64 + "-1"}
    )

    assert answer.json() == {"resident": False}


async def test_health_says_why_it_is_not_ready(control: Control) -> None:
    assert (await control.ask("GET", "/health")).json() == {"status": "ready"}
    control.pool.health = Health("unhealthy", "the engine generates no tokens")

    answer = await control.ask("GET", "/health")

    assert answer.status_code == 503
    assert answer.json() == {"status": "unhealthy", "reason": "the engine generates no tokens"}


async def test_the_base_model_is_described_once_the_engine_has_come_up(control: Control) -> None:
    described = (await control.ask("GET", "/base-model")).json()
    control.pool.state = None
    before = await control.ask("GET", "/base-model")

    assert described == {
        "id": "tiny",
        "fingerprint": control.world.base_model.fingerprint,
        "max_lora_rank": 8,
        "max_model_len": 512,
    }
    assert before.status_code == 503


async def test_an_ingest_key_is_the_tenants_own(control: Control) -> None:
    acme, globex = [
        (await control.ask("GET", f"/ingest-keys/{tenant}")).json() for tenant in ("acme", "globex")
    ]

    assert acme["algorithm"] == "hpke-xwing"
    assert acme["public_key"] != globex["public_key"]
    assert (await control.ask("GET", "/ingest-keys/NO")).status_code == 400


async def test_unknown_routes_have_the_same_shape_of_error(control: Control) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/health", 405)):
        answer = await control.ask(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "unknown_route"
