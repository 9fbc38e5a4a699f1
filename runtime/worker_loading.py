"""Adapter loading in vLLM's workers: from the broker, and never an exception inside a step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import is_base_embedding_weights, parse_fine_tuned_lora_name
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager, WorkerLoRAManager

from runtime.broker.client import BrokerClient
from runtime.errors import AdapterRefusedError, BrokerError, BrokerProtocolError
from runtime.patching import replace

PATH_PREFIX = "/tensafe/"
"""Marks the adapters of the broker; as a path it exists nowhere."""

_logger = logging.getLogger("vllm.tensafe.loading")


class AdapterLoading:
    """What this worker knows about its adapters: which came, and which failed inside a step.

    vLLM ends the whole engine when an exception leaves a step. An adapter that cannot be
    loaded there is therefore replaced by a zero adapter and marked failed, and the requests
    that used it end with an error (runtime.step_failures). A failed id stays failed: its
    cached key-value blocks were computed without its weights.
    """

    def __init__(self, broker: BrokerClient, *, confirm_loads: bool) -> None:
        self._broker = broker
        self._confirm_loads = confirm_loads
        self._in_step = False
        self._active: frozenset[int] = frozenset()
        self._unconfirmed: dict[int, str] = {}
        self._failed: set[int] = set()

    def install(self) -> None:
        """Replace the loading methods of vLLM's worker."""
        replace(WorkerLoRAManager, "_load_adapter", self._make_load)
        replace(WorkerLoRAManager, "set_active_adapters", self._make_set_active)
        replace(WorkerLoRAManager, "remove_adapter", self._make_remove)
        replace(LRUCacheWorkerLoRAManager, "add_adapter", self._make_add)

    def failed_in_this_step(self) -> frozenset[int]:
        """Return the ids whose rows of the step just computed must not reach anybody.

        With several workers each loads its own copy, and only one of them reports the
        outcome: it asks the broker whether a peer has failed. No answer counts as a failure.
        """
        for lora_id, name in self._unconfirmed.items():
            try:
                self._broker.confirm(name)
            except BrokerError as error:
                self._mark_failed(lora_id, name, error)
        self._unconfirmed.clear()
        return self._active & self._failed

    def _make_load(self, _original: Callable[..., Any]) -> Callable[..., LoRAModel]:
        def _load_adapter(manager: WorkerLoRAManager, lora_request: LoRARequest) -> LoRAModel:
            if lora_request.lora_int_id in self._failed:
                return _zero_adapter(manager, lora_request)
            if not lora_request.lora_path.startswith(PATH_PREFIX):
                raise AdapterRefusedError("not_from_the_broker", kind="absent")
            return self._load(manager, lora_request)

        return _load_adapter

    def _make_set_active(self, original: Callable[..., Any]) -> Callable[..., None]:
        def set_active_adapters(
            manager: WorkerLoRAManager, requests: set[LoRARequest], mapping: Any
        ) -> None:
            self._active = frozenset(request.lora_int_id for request in requests)
            self._in_step = True
            try:
                original(manager, requests, mapping)
            finally:
                self._in_step = False

        return set_active_adapters

    def _make_add(self, original: Callable[..., bool]) -> Callable[..., bool]:
        def add_adapter(manager: LRUCacheWorkerLoRAManager, lora_request: LoRARequest) -> bool:
            try:
                return original(manager, lora_request)
            # The one broad except: whatever it is, it must not leave a step (see the class).
            except Exception as error:
                # A half-activated adapter would keep its slot.
                manager._adapter_manager.remove_adapter(lora_request.lora_int_id)
                if not self._in_step:
                    raise
                self._mark_failed(lora_request.lora_int_id, lora_request.lora_name, error)
                return original(manager, lora_request)

        return add_adapter

    def _make_remove(self, original: Callable[..., bool]) -> Callable[..., bool]:
        def remove_adapter(manager: WorkerLoRAManager, adapter_id: int) -> bool:
            # Ids are never used twice, and the broker remembers the name.
            self._failed.discard(adapter_id)
            return original(manager, adapter_id)

        return remove_adapter

    def _load(self, manager: WorkerLoRAManager, lora_request: LoRARequest) -> LoRAModel:
        try:
            config, tensors = self._take(lora_request.lora_name)
        except BrokerError as error:
            if not _passes(error):
                raise
            # Once more: inside a step, a failure costs the adapter its name.
            config, tensors = self._take(lora_request.lora_name)
        model = _adapter_from(manager, lora_request, config, tensors)
        if self._in_step and self._confirm_loads:
            self._unconfirmed[lora_request.lora_int_id] = lora_request.lora_name
        return model

    def _take(self, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        with self._broker.take(name) as taken:
            return json.loads(taken.config_json), _read_tensors(str(taken.tensors_path))

    def _mark_failed(self, lora_id: int, name: str, error: Exception) -> None:
        self._failed.add(lora_id)
        reason = error.reason if isinstance(error, AdapterRefusedError) else type(error).__name__
        unforeseen = error if not isinstance(error, BrokerError) else None
        _logger.warning("adapter %s failed inside a step: %s", name, reason, exc_info=unforeseen)
        try:
            self._broker.report_failure(name)
        except BrokerError as unreported:
            _logger.warning("the failure could not be reported: %s", unreported.code)


def _passes(error: BrokerError) -> bool:
    """Return whether asking again at once may help; a timeout has cost everybody enough already."""
    if isinstance(error, AdapterRefusedError):
        return error.kind == "unavailable"
    return isinstance(error, BrokerProtocolError)


def _read_tensors(path: str) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        # Copies: nothing may keep the broker's memory file mapped after this.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _adapter_from(
    manager: WorkerLoRAManager,
    lora_request: LoRARequest,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
) -> LoRAModel:
    """Do what vLLM's own `_load_adapter` and `from_local_checkpoint` do with files, in memory."""
    adapters = manager._adapter_manager
    model = adapters.model
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapper = mapper.get_rename_mapper() if mapper is not None else None
    skip_prefixes = getattr(model, "lora_skip_prefixes", None)
    helper = PEFTHelper.from_dict(
        config | {"vllm_max_position_embeddings": manager.max_position_embeddings}
    )
    helper.validate_legal(manager.lora_config)
    _check_modules(adapters, tensors, mapper, skip_prefixes)
    lora = manager._lora_model_cls.from_lora_tensors(
        lora_model_id=lora_request.lora_int_id,
        tensors=tensors,
        peft_helper=helper,
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        model_vocab_size=manager.vocab_size,
        weights_mapper=mapper,
        skip_prefixes=skip_prefixes,
    )
    if not lora.loras:
        raise AdapterRefusedError("no_tensors_for_this_model", kind="unusable")
    lora.is_3d_lora_weight = lora_request.is_3d_lora_weight
    adapters._validate_moe_lora_format(lora)
    adapters._validate_modules_to_save(lora)
    adapters._validate_token_classification_lora(lora)
    return lora


def _check_modules(
    adapters: Any, tensors: dict[str, torch.Tensor], mapper: Any, skip_prefixes: list[str] | None
) -> None:
    """Refuse tensors of modules that the engine would silently leave out."""
    expected: set[str] = set()
    for module in adapters.supported_lora_modules:
        expected.update(adapters.packed_modules_mapping.get(module, [module]))
    for name in tensors:
        if is_base_embedding_weights(name):
            continue
        if skip_prefixes and LoRAModel._should_skip_module(name, skip_prefixes):
            continue
        module_name, _is_a = parse_fine_tuned_lora_name(name, mapper)
        if module_name.rpartition(".")[2] not in expected:
            raise AdapterRefusedError("unexpected_module", kind="unusable")


def _zero_adapter(manager: WorkerLoRAManager, lora_request: LoRARequest) -> LoRAModel:
    """Return an adapter of zeroes: a placeholder for rows whose output is thrown away."""
    return manager._adapter_manager.create_dummy_lora(
        lora_request.lora_int_id, 1, manager.embedding_modules
    )
