"""What the plugins change in vLLM, on the real vLLM but without an engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.request import LoRARequest
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, AsyncModelRunnerOutput, ModelRunnerOutput

from runtime import base_rows, step_failures
from runtime.engine_contract import (
    EXPECTATIONS,
    Expectation,
    check_engine_contract,
    installed_version,
)
from runtime.errors import (
    AdapterRefusedError,
    BrokerProtocolError,
    BrokerUnavailableError,
    EngineContractError,
)
from runtime.lora_resolver import TenSafeResolver, make_resolve
from runtime.worker_loading import PATH_PREFIX, AdapterLoading

pytestmark = pytest.mark.anyio

NAME = "ts-acme-" + "a" * 64 + "-1"
FAILED_ID, OTHER_ID = 7, 8


class FakeBroker:
    """A broker client that answers as it is told, and remembers what was reported."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.reported: list[str] = []
        self.prepared: list[str] = []

    def prepare(self, name: str) -> None:
        self.prepared.append(name)
        if self.error is not None:
            raise self.error

    def confirm(self, _name: str) -> None:
        if self.error is not None:
            raise self.error

    def report_failure(self, name: str) -> None:
        self.reported.append(name)
        raise BrokerUnavailableError("the broker is gone as well")


# --- the self-test -----------------------------------------------------------------------------


def test_the_installed_engine_is_the_one_that_the_plugins_were_written_for() -> None:
    check_engine_contract()
    assert installed_version() == "0.32.0"


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Expectation(LoRARequest, "no_such_method", ("self",)), "LoRARequest.no_such_method"),
        (
            Expectation(LoRARequest, "__hash__", ("self", "more")),
            "expected (self, more), got (self)",
        ),
    ],
)
def test_another_engine_is_refused_with_what_differs(broken: Expectation, says: str) -> None:
    with pytest.raises(EngineContractError) as refused:
        check_engine_contract([*EXPECTATIONS, broken])

    assert says in str(refused.value)


# --- base rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", base_rows.KERNELS)
def test_rows_of_the_base_model_get_no_adapter_where_vllm_gives_them_the_last(kernel: str) -> None:
    slots = torch.tensor([0, -1, 1])
    inputs = torch.ones(3, 2)
    weights = torch.stack([torch.full((4, 2), 1.0), torch.full((4, 2), 10.0)]).unsqueeze(1)
    extra = (0, 4) if kernel == "bgmv_expand_slice" else ()
    original = getattr(lora_ops, kernel)
    original = getattr(original, "__wrapped__", original)

    wrong, right = torch.zeros(3, 4), torch.zeros(3, 4)
    original(inputs, weights, wrong, slots, *extra)
    base_rows._without_base_rows(original)(inputs, weights, right, slots, *extra)

    assert right.tolist() == [[2.0] * 4, [0.0] * 4, [20.0] * 4]
    # Control, and the day when this replacement can go: vLLM's own gives row 1 the last adapter.
    assert wrong[1].tolist() == [20.0] * 4


# --- failures inside a step --------------------------------------------------------------------


def request(lora_id: int | None) -> Any:
    lora = None if lora_id is None else LoRARequest("x", lora_id, "/x")
    return SimpleNamespace(lora_request=lora)


def test_only_rows_of_failed_adapters_are_emptied_and_ended() -> None:
    scheduler = SimpleNamespace(
        requests={"bad": request(FAILED_ID), "good": request(OTHER_ID), "base": request(None)},
        grammar_compile_error_reqs=set(),
    )
    output = ModelRunnerOutput(
        req_ids=["good", "bad", "base"],
        req_id_to_index={"good": 0, "bad": 1, "base": 2},
        sampled_token_ids=[[1], [2], [3]],
        prompt_logprobs_dict={"good": None, "bad": None},
    )
    setattr(output, step_failures.FAILED_ADAPTERS, frozenset({FAILED_ID}))
    scheduled = SimpleNamespace(num_scheduled_tokens={"good": 1, "bad": 1, "base": 1, "gone": 1})
    seen: list[Any] = []

    update = step_failures._make_update(lambda *args: seen.append(args))
    update(scheduler, scheduled, output)

    assert output.sampled_token_ids == [[1], [], [3]]
    assert output.prompt_logprobs_dict == {"good": None}
    assert scheduler.grammar_compile_error_reqs == {"bad"}
    assert seen == [(scheduler, scheduled, output)]


def test_failed_ids_travel_with_every_kind_of_output_but_never_with_the_shared_one() -> None:
    class Later(AsyncModelRunnerOutput):
        def get_output(self) -> ModelRunnerOutput:
            return ModelRunnerOutput(["r"], {"r": 0})

    failed = frozenset({FAILED_ID})
    now = step_failures._with_failures(ModelRunnerOutput(["r"], {"r": 0}), failed)
    later = step_failures._with_failures(Later(), failed).get_output()
    step_failures._with_failures(EMPTY_MODEL_RUNNER_OUTPUT, failed)

    assert getattr(now, step_failures.FAILED_ADAPTERS) == failed
    assert getattr(later, step_failures.FAILED_ADAPTERS) == failed
    assert not hasattr(EMPTY_MODEL_RUNNER_OUTPUT, step_failures.FAILED_ADAPTERS)
    assert not hasattr(
        step_failures._with_failures(ModelRunnerOutput(["r"], {"r": 0}), frozenset()),
        step_failures.FAILED_ADAPTERS,
    )


class FakeManager:
    """vLLM's worker manager, as far as loading and containment go."""

    def __init__(self) -> None:
        self.removed: list[int] = []
        self.embedding_modules: dict[str, str] = {}
        self._adapter_manager = SimpleNamespace(
            remove_adapter=self.removed.append,
            create_dummy_lora=lambda lora_id, rank, modules: f"zeroes for {lora_id}",
        )


def loading_with(broker: FakeBroker, *, confirm_loads: bool = False) -> AdapterLoading:
    return AdapterLoading(broker, confirm_loads=confirm_loads)  # type: ignore[arg-type]


def test_an_exception_inside_a_step_becomes_a_zero_adapter_and_a_failed_id() -> None:
    broker = FakeBroker()
    loading, manager = loading_with(broker), FakeManager()
    lora = LoRARequest(NAME, FAILED_ID, f"{PATH_PREFIX}{NAME}")
    attempts: list[bool] = []

    def vllm_add(_manager: Any, request: LoRARequest) -> bool:
        attempts.append(request.lora_int_id in loading._failed)
        if not attempts[-1]:
            raise RuntimeError("no free slot, or whatever else")
        assert loading._make_load(None)(manager, request) == f"zeroes for {FAILED_ID}"  # type: ignore[arg-type]
        return True

    add = loading._make_add(vllm_add)
    loading._make_set_active(lambda *_: add(manager, lora))(manager, {lora}, None)  # type: ignore[arg-type]

    assert attempts == [False, True]
    assert manager.removed == [FAILED_ID]
    assert loading.failed_in_this_step() == {FAILED_ID}
    assert broker.reported == [NAME]
    # Also in later steps, but not in steps without it.
    other = LoRARequest("other", OTHER_ID, "/x")
    loading._make_set_active(lambda *_: None)(manager, {other}, None)  # type: ignore[arg-type]
    assert loading.failed_in_this_step() == frozenset()


def test_the_same_exception_outside_a_step_goes_to_the_request_that_caused_it() -> None:
    broker = FakeBroker()
    loading, manager = loading_with(broker), FakeManager()

    def vllm_add(*_: Any) -> bool:
        raise RuntimeError("cannot load")

    with pytest.raises(RuntimeError):
        loading._make_add(vllm_add)(manager, LoRARequest(NAME, FAILED_ID, "/x"))  # type: ignore[arg-type]

    assert manager.removed == [FAILED_ID], "half an adapter would keep its slot"
    assert broker.reported == []
    assert loading.failed_in_this_step() == frozenset()


def test_with_several_workers_no_answer_of_the_broker_counts_as_a_failure() -> None:
    broker = FakeBroker()
    loading = loading_with(broker, confirm_loads=True)
    lora = LoRARequest(NAME, FAILED_ID, f"{PATH_PREFIX}{NAME}")

    def loads(*_: Any) -> None:
        loading._unconfirmed[FAILED_ID] = NAME

    loading._make_set_active(loads)(None, {lora}, None)  # type: ignore[arg-type]
    assert loading.failed_in_this_step() == frozenset(), "control: everybody has loaded it"

    broker.error = BrokerUnavailableError("gone")
    loading._make_set_active(loads)(None, {lora}, None)  # type: ignore[arg-type]
    assert loading.failed_in_this_step() == {FAILED_ID}


def test_only_the_brokers_adapters_are_ever_loaded() -> None:
    loading = loading_with(FakeBroker())

    with pytest.raises(AdapterRefusedError):
        loading._make_load(None)(FakeManager(), LoRARequest("x", 1, "/tmp/adapter"))  # type: ignore[arg-type]


# --- names to adapters -------------------------------------------------------------------------


def fake_models() -> Any:
    return SimpleNamespace(lora_requests={}, lora_resolver_lock=defaultdict(asyncio.Lock))


async def resolve(models: Any, broker: FakeBroker, name: str, *, loads: bool = True) -> Any:
    async def vllm_resolve(models: Any, name: str) -> Any:
        async with models.lora_resolver_lock[name]:
            if not loads:
                return ErrorResponse.model_construct()
            models.lora_requests[name] = LoRARequest(name, 1, f"{PATH_PREFIX}{name}")
            return models.lora_requests[name]

    return await make_resolve(TenSafeResolver(broker))(vllm_resolve)(models, name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["", "nonsense", "ts-acme-1-1", NAME + "\n", "a" * 10_000, "ts-\x00"]
)
async def test_a_malformed_name_asks_nobody_and_leaves_no_lock(name: str) -> None:
    models, broker = fake_models(), FakeBroker()

    answer = await resolve(models, broker, name)

    assert answer.error.code == 404
    assert name not in answer.error.message or not name
    assert broker.prepared == []
    assert models.lora_resolver_lock == {}


async def test_an_absent_adapter_is_not_found_and_leaves_no_lock() -> None:
    models, broker = fake_models(), FakeBroker()
    broker.error = AdapterRefusedError("not_active", kind="absent")

    assert (await resolve(models, broker, NAME)).error.code == 404
    assert models.lora_resolver_lock == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AdapterRefusedError("chunk_damaged", kind="unusable"), 422),
        (AdapterRefusedError("storage_unavailable", kind="unavailable"), 503),
        (AdapterRefusedError("adapter_failed_in_step", kind="failed"), 500),
        (BrokerUnavailableError("text"), 503),
    ],
)
async def test_other_refusals_have_a_status_and_a_code_of_their_own(
    error: Exception, status: int
) -> None:
    models, broker = fake_models(), FakeBroker()
    broker.error = error

    with pytest.raises(GracefulHTTPError) as refused:
        await resolve(models, broker, NAME)

    assert refused.value.http_status == status
    assert getattr(error, "reason", "broker_unavailable") in refused.value.message
    assert models.lora_resolver_lock == {}


async def test_an_adapter_that_the_engine_refuses_is_unprocessable_and_leaves_no_lock() -> None:
    models = fake_models()

    with pytest.raises(GracefulHTTPError) as refused:
        await resolve(models, FakeBroker(), NAME, loads=False)

    assert refused.value.http_status == 422
    assert models.lora_resolver_lock == {}


async def test_a_known_adapter_is_not_prepared_again() -> None:
    models, broker = fake_models(), FakeBroker()

    first = await resolve(models, broker, NAME)
    second = await resolve(models, broker, NAME)

    assert first is second
    assert broker.prepared == [NAME]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (AdapterRefusedError("adapter_evicted", kind="unavailable"), 2),
        (BrokerProtocolError("the peer hung up"), 2),
        (AdapterRefusedError("not_active", kind="absent"), 1),
        (BrokerUnavailableError("too slow"), 1),
    ],
)
def test_only_what_may_pass_at_once_is_asked_for_once_more(error: Exception, attempts: int) -> None:
    asked: list[str] = []

    class Refusing(FakeBroker):
        def take(self, name: str) -> Any:
            asked.append(name)
            raise error

    lora = LoRARequest(NAME, 1, f"{PATH_PREFIX}{NAME}")

    with pytest.raises(type(error)):
        loading_with(Refusing())._make_load(None)(FakeManager(), lora)  # type: ignore[arg-type]

    assert asked == [NAME] * attempts
