"""PEFT's config: what an engine serves is read, what it would ignore or refuse is refused here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from adapter_store.errors import AdapterConfigError
from adapter_store.peft.config import AdapterConfig, parse_adapter_config
from tests.fakes.packages import CONFIG

AS_PEFT_WRITES_IT = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "/models/base", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None,
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False,
    "lora_dropout": 0.05, "lora_ga_config": None, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None,
    "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8,
    "rank_pattern": {}, "revision": None, "target_modules": ["v_proj", "q_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None,
    "use_bdlora": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    "velora_config": None,
}  # fmt: skip


def parse(**changes: Any) -> AdapterConfig:
    return parse_adapter_config(json.dumps(CONFIG | changes).encode())


def test_a_config_as_peft_writes_it_is_read() -> None:
    config = parse_adapter_config(json.dumps(AS_PEFT_WRITES_IT, indent=2).encode())
    assert (config.r, config.alpha, config.target_modules) == (8, 16.0, ("q_proj", "v_proj"))
    assert (config.use_rslora, config.use_dora) == (False, False)


def test_what_the_engine_gets_reads_back_as_the_same_config() -> None:
    config = parse(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 0.5}, use_rslora=True)
    assert parse_adapter_config(config.to_peft_json()) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("lora_bias", True),
        ("layer_replication", [[0, 4]]),
        ("alora_invocation_tokens", [1, 2]),
        ("use_bdlora", {"a": 1}),
        ("use_qalora", True),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts"]),
        ("megatron_config", {"a": 1}),
        ("arrow_config", {"top_k": 3}),
        ("velora_config", {"a": 1}),
        ("corda_config", {"a": 1}),
        ("a_feature_of_next_year", True),
    ],
)
def test_a_feature_that_the_engine_does_not_serve_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(AdapterConfigError, match=f"'{name}' is not supported"):
        parse(**{name: value})
    parse(**{name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("peft_type", ["LORA"]),
        ("bias", "all"),
        ("task_type", "SEQ_CLS"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("r", 0),
        ("r", 513),
        ("r", "8"),
        ("r", 8.5),
        ("r", True),
        ("r", None),
        ("lora_alpha", 0),
        ("lora_alpha", -1),
        ("lora_alpha", "16"),
        ("use_rslora", "yes"),
        ("target_modules", "all-linear"),
        ("target_modules", []),
        ("target_modules", None),
        ("target_modules", [1]),
        ("target_modules", ["../q_proj"]),
        ("target_modules", ["q_proj\n"]),
        ("target_modules", ["q_proj", "lm_head"]),
        ("target_modules", ["model.lm_head"]),
        ("target_modules", [f"m{number}" for number in range(257)]),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {".*q_proj": 8}),
        ("rank_pattern", {"(a+)+$": 8}),
        ("rank_pattern", {"q_proj": 2, "self_attn.q_proj": 4}),
        ("rank_pattern", []),
        ("alpha_pattern", {"q_proj": "8"}),
    ],
)
def test_a_member_that_is_out_of_bounds_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(AdapterConfigError, match=name):
        parse(**{name: value})


@pytest.mark.parametrize("value", ["gaussian", "eva", "orthogonal", True, False, None])
def test_an_initialisation_that_leaves_the_base_model_alone_is_accepted(value: Any) -> None:
    parse(init_lora_weights=value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"\x80\x04.",
        b'{"r":1,"r":2}',
        b'{"r":NaN}',
        b"[" * 60_000,
        b" " * (65 << 10),
    ],
)
def test_what_is_no_config_is_refused(data: bytes) -> None:
    with pytest.raises(AdapterConfigError):
        parse_adapter_config(data)


def test_rank_and_scaling_follow_peft() -> None:
    config = parse(rank_pattern={"q_proj": 16}, alpha_pattern={"layers.0.v_proj": 32})
    assert config.rank_of("model.layers.0.q_proj") == 16
    assert config.rank_of("model.layers.0.x_q_proj") == 4
    assert config.max_rank == 16
    assert config.scaling_of("model.layers.0.q_proj") == 8 / 16
    assert config.scaling_of("model.layers.0.v_proj") == 32 / 4
    assert parse(use_rslora=True).scaling_of("q_proj") == 8 / math.sqrt(4)


def test_a_module_is_targeted_by_its_last_parts() -> None:
    config = parse(target_modules=["q_proj", "mlp.up_proj"])
    assert config.targets("model.layers.3.self_attn.q_proj")
    assert config.targets("model.layers.3.mlp.up_proj")
    assert not config.targets("model.layers.3.up_proj")
    assert not config.targets("model.layers.3.my_q_proj")
