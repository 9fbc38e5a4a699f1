"""PEFT's adapter_config.json: what an engine needs of it, and a refusal where it asks for more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from adapter_store import canonical, foreign_json
from adapter_store.errors import AdapterConfigError, shown
from adapter_store.tssp.format import MAX_CONFIG_BYTES, MAX_RANK

# Plain names only: PEFT and vLLM take rank and alpha patterns for regular expressions, and an
# expression from a stranger can run for ever.
ModuleName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z", max_length=256)]
Rank = Annotated[int, Meta(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Meta(gt=0, le=1e6)]
T = TypeVar("T")

MAX_TARGET_MODULES: Final = 256
"""Names of modules, not of layers: Llama has 7, DeepSeek-V3 14; some configs list every layer."""

# Initialisations that leave the base model's weights alone. The others (PiSSA, OLoRA, CorDA,
# LoftQ) change them when PEFT loads the adapter, which a shared base model cannot do.
_PLAIN_INITIALISATIONS: Final = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})

# Members that say how the adapter was trained and mean nothing to the saved tensors.
_TRAINING_ONLY: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
        "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
        "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    }
)  # fmt: skip
_READ_HERE: Final = frozenset(
    {
        "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r",
        "rank_pattern", "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip

_UNSERVED_MODULES: Final = frozenset({"lm_head"})
"""Scoring a prompt needs the output head for every row at once, which an adapter on it cannot do:
vLLM ends (vllm 0.32, LogitsProcessorWithLoRA)."""


class AdapterConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an adapter is: a plain LoRA of rank `r`, scaled by `alpha`, on `target_modules`."""

    type: Literal["LORA"]
    r: Rank
    alpha: Alpha
    target_modules: Annotated[
        tuple[ModuleName, ...], Meta(min_length=1, max_length=MAX_TARGET_MODULES)
    ]
    use_rslora: bool
    use_dora: bool
    rank_pattern: Annotated[dict[ModuleName, Rank], Meta(max_length=MAX_TARGET_MODULES)]
    alpha_pattern: Annotated[dict[ModuleName, Alpha], Meta(max_length=MAX_TARGET_MODULES)]

    @property
    def max_rank(self) -> int:
        """The largest rank of any module."""
        return max(self.r, *self.rank_pattern.values(), 1)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module, by PEFT's rule: the first suffix in `rank_pattern`."""
        return _by_suffix(self.rank_pattern, module, self.r)

    def scaling_of(self, module: str) -> float:
        """Return what the product of a module's B and A is multiplied by."""
        rank, alpha = self.rank_of(module), _by_suffix(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def targets(self, module: str) -> bool:
        """Return whether `target_modules` names this module, in full or by its last parts."""
        return any(_is_suffix(name, module) for name in self.target_modules)

    def to_peft_json(self) -> bytes:
        """Return an adapter_config.json that says this and nothing else."""
        return canonical.encode(
            {
                "peft_type": "LORA",
                "r": self.r,
                "lora_alpha": self.alpha,
                "target_modules": list(self.target_modules),
                "use_rslora": self.use_rslora,
                "use_dora": False,
                "bias": "none",
                "rank_pattern": self.rank_pattern,
                "alpha_pattern": self.alpha_pattern,
            }
        )


def parse_adapter_config(data: bytes) -> AdapterConfig:
    """Return what an adapter_config.json says.

    Raises AdapterConfigError that names the member: for what is malformed, and for every feature
    that the engine would ignore or refuse, so that no adapter is served as something it is not.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterConfigError(
            "adapter_config.json", expected=f"at most {MAX_CONFIG_BYTES} bytes", found=len(data)
        )
    members = foreign_json.parse_object(data, what="adapter_config.json", error=AdapterConfigError)
    _refuse_features(members)
    return AdapterConfig(
        type="LORA",
        r=_member(members, "r", Rank),
        alpha=float(_member(members, "lora_alpha", Alpha)),
        target_modules=_target_modules(members),
        use_rslora=_member(members, "use_rslora", bool, default=False),
        use_dora=False,
        rank_pattern=_pattern(members, "rank_pattern", dict[ModuleName, Rank]),
        alpha_pattern=_pattern(members, "alpha_pattern", dict[ModuleName, Alpha]),
    )


def _refuse_features(members: Mapping[str, Any]) -> None:
    _require(members, "peft_type", "LORA", optional=False)
    _require(members, "bias", "none", optional=True)
    _require(members, "task_type", "CAUSAL_LM", optional=True)
    initialisation = members.get("init_lora_weights", True)
    if isinstance(initialisation, str) and initialisation.lower() not in _PLAIN_INITIALISATIONS:
        raise AdapterConfigError(
            "init_lora_weights",
            expected="an initialisation that leaves the base model's weights unchanged",
            found=shown(initialisation),
        )
    # modules_to_save, use_dora, lora_bias, layer_replication, aLoRA, and whatever comes next:
    # a member that nobody here knows may change what the tensors mean, unless it is switched off.
    for name, value in members.items():
        if name not in _TRAINING_ONLY and name not in _READ_HERE and value:
            raise AdapterConfigError(f"{shown(name)} is not supported", found=shown(value))


def _require(members: Mapping[str, Any], name: str, expected: str, *, optional: bool) -> None:
    found = members.get(name)
    if found != expected and not (optional and found is None):
        raise AdapterConfigError(name, expected=expected, found=shown(found))


def _target_modules(members: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(members.get("target_modules"), str):
        raise AdapterConfigError(
            "target_modules", expected="a list of module names", found="a pattern"
        )
    names = _member(members, "target_modules", list[ModuleName])
    if not 1 <= len(set(names)) <= MAX_TARGET_MODULES:
        raise AdapterConfigError(
            "target_modules", expected=f"1 to {MAX_TARGET_MODULES} names", found=len(set(names))
        )
    for name in names:
        if name.rpartition(".")[2] in _UNSERVED_MODULES:
            raise AdapterConfigError(
                "target_modules", expected="modules of the layers only", found=shown(name)
            )
    return tuple(sorted(set(names)))


def _pattern(members: Mapping[str, Any], name: str, type_: type[dict[str, T]]) -> dict[str, T]:
    pattern = _member(members, name, type_, default={})
    if len(pattern) > MAX_TARGET_MODULES:
        raise AdapterConfigError(
            name, expected=f"at most {MAX_TARGET_MODULES} names", found=len(pattern)
        )
    # PEFT takes the first match in the order of the file, which canonical JSON does not keep.
    for first, second in permutations(pattern, 2):
        if _is_suffix(first, second):
            raise AdapterConfigError(f"{name}: both {first} and {second} can match one module")
    return pattern


def _member(members: Mapping[str, Any], name: str, type_: type[T], default: Any = None) -> T:
    value = members.get(name)
    try:
        return msgspec.convert(default if value is None else value, type_)
    except msgspec.ValidationError as invalid:
        raise AdapterConfigError(f"{name}: {invalid}") from None


def _is_suffix(name: str, module: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _by_suffix(pattern: Mapping[str, T], module: str, default: T) -> T:
    return next((value for name, value in pattern.items() if _is_suffix(name, module)), default)
