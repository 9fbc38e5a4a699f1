"""What transformers and PEFT write is what the store reads: a real model, a real adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter_store.base_model import BaseModelRef, fingerprint, read_base_model
from tests.fakes.packages import World

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.anyio


@pytest.fixture
def base() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


@pytest.mark.slow
async def test_an_adapter_as_peft_saves_it_is_packed_admitted_and_loaded(
    base: Any, tmp_path: Path
) -> None:
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4,
        target_modules="all-linear",
        rank_pattern={"q_proj": 8},
        use_rslora=True,
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")

    world = World(base_model=read_base_model(tmp_path / "base"))
    reference = BaseModelRef(id="tiny", fingerprint=fingerprint(tmp_path / "base"))
    name = await world.activated(world.pack(tmp_path / "adapter", base_model=reference))
    loaded = world.loader().load(name)
    assert bytes(loaded.tensors) == (tmp_path / "adapter/adapter_model.safetensors").read_bytes()
    assert loaded.config.rank_of("model.layers.0.self_attn.q_proj") == 8

    (tmp_path / "again").mkdir()
    (tmp_path / "again/adapter_config.json").write_bytes(loaded.config_json)
    (tmp_path / "again/adapter_model.safetensors").write_bytes(loaded.tensors)
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "again")
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        expected, found = (
            model(input_ids=tokens).logits for model in (adapted.eval(), again.eval())
        )
        unadapted = again.get_base_model()
        with again.disable_adapter():
            without = unadapted(input_ids=tokens).logits
    assert torch.equal(expected, found)
    assert not torch.allclose(without, found, atol=1e-3)
