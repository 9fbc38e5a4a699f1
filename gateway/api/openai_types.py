"""The requests of the OpenAI API that the gateway takes: what passes, what is dropped, what is bad.

The structs below are the allow-list. A field that only an operator may set at the engine is
accepted and dropped, so that a client written for vLLM works unchanged; so is a field that only
OpenAI's own service understands (`DroppedFields`). Any other name is an error, because a misspelt
`max_tokens` that is silently ignored costs more than a clear answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.strict_json import decode, refuse_duplicates
from gateway.errors import InvalidRequestError

MAX_CHOICES: Final = 128
"""`n` of the OpenAI API; the engine would take thousands, each a sequence of its own."""

MAX_PROMPTS: Final = 2048
"""Prompts in one completions request, as in the OpenAI API."""

MAX_STOP_SEQUENCES: Final = 16

Ignored = Any | UnsetType
"""A field that is accepted with any value and goes no further."""

Flag = bool | None | UnsetType
Number = float | None | UnsetType
Integer = int | None | UnsetType
Natural = Annotated[int, Meta(ge=0)] | None | UnsetType
Positive = Annotated[int, Meta(ge=1)] | None | UnsetType
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None | UnsetType
Stop = str | Annotated[list[str], Meta(max_length=MAX_STOP_SEQUENCES)] | None | UnsetType


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the stream ends. The gateway counts always; the client sees it if it asked."""

    include_usage: Flag = UNSET
    continuous_usage_stats: Flag = UNSET
    include_obfuscation: Ignored = UNSET


class DroppedFields(msgspec.Struct, kw_only=True):
    """Fields that are accepted and go no further than the gateway."""

    # vLLM's: by these a client could reach past its tenant, or make the engine work for nothing.
    cache_salt: Ignored = UNSET
    priority: Ignored = UNSET
    vllm_xargs: Ignored = UNSET
    kv_transfer_params: Ignored = UNSET
    ec_transfer_params: Ignored = UNSET
    lora_request: Ignored = UNSET
    request_id: Ignored = UNSET
    session_id: Ignored = UNSET
    data_parallel_rank: Ignored = UNSET
    logits_processors: Ignored = UNSET
    prompt_embeds: Ignored = UNSET
    structured_outputs: Ignored = UNSET
    guided_json: Ignored = UNSET
    guided_regex: Ignored = UNSET
    guided_choice: Ignored = UNSET
    guided_grammar: Ignored = UNSET
    chat_template: Ignored = UNSET
    chat_template_kwargs: Ignored = UNSET
    documents: Ignored = UNSET
    media_io_kwargs: Ignored = UNSET
    mm_processor_kwargs: Ignored = UNSET
    mm_payload: Ignored = UNSET
    return_mm_kwargs: Ignored = UNSET
    return_prompt_text: Ignored = UNSET
    return_token_offsets: Ignored = UNSET
    routed_experts_prompt_start: Ignored = UNSET
    repetition_detection: Ignored = UNSET
    stream_interval: Ignored = UNSET
    thinking_token_budget: Ignored = UNSET
    use_beam_search: Ignored = UNSET
    watermarking: Ignored = UNSET
    # OpenAI's: they mean something to its own service only.
    user: Ignored = UNSET
    metadata: Ignored = UNSET
    store: Ignored = UNSET
    service_tier: Ignored = UNSET
    safety_identifier: Ignored = UNSET
    prompt_cache_key: Ignored = UNSET
    prompt_cache_retention: Ignored = UNSET
    modalities: Ignored = UNSET
    prediction: Ignored = UNSET
    verbosity: Ignored = UNSET
    web_search_options: Ignored = UNSET


class Sampling(DroppedFields, kw_only=True):
    """What both calls share and the engine is told."""

    max_tokens: Natural = UNSET
    temperature: Number = UNSET
    top_p: Number = UNSET
    n: Choices = UNSET
    stop: Stop = UNSET
    seed: Integer = UNSET
    frequency_penalty: Number = UNSET
    presence_penalty: Number = UNSET
    logit_bias: dict[str, float] | UnsetType | None = UNSET
    response_format: dict[str, Any] | UnsetType | None = UNSET
    # vLLM's own sampling fields: they touch nothing but this request.
    top_k: Integer = UNSET
    min_p: Number = UNSET
    repetition_penalty: Number = UNSET
    length_penalty: Number = UNSET
    stop_token_ids: list[int] | UnsetType | None = UNSET
    include_stop_str_in_output: Flag = UNSET
    ignore_eos: Flag = UNSET
    min_tokens: Natural = UNSET
    skip_special_tokens: Flag = UNSET
    spaces_between_special_tokens: Flag = UNSET
    truncate_prompt_tokens: Integer = UNSET
    truncation_side: Literal["left", "right"] | UnsetType | None = UNSET
    prompt_logprobs: Natural = UNSET
    logprob_token_ids: list[int] | UnsetType | None = UNSET
    allowed_token_ids: list[int] | UnsetType | None = UNSET
    bad_words: list[str] | UnsetType | None = UNSET
    add_special_tokens: Flag = UNSET
    return_tokens_as_token_ids: Flag = UNSET
    return_token_ids: Flag = UNSET


class GenerationRequest(Sampling, kw_only=True):
    """What the gateway itself reads of either call."""

    model: Annotated[str, Meta(min_length=1, max_length=512)]
    stream: Flag = UNSET
    stream_options: StreamOptions | UnsetType | None = UNSET

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.stream is True

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the extra chunk that counts tokens."""
        return isinstance(self.stream_options, StreamOptions) and (
            self.stream_options.include_usage is True
        )

    @property
    def choices_per_prompt(self) -> int:
        """How many answers each prompt gets."""
        return self.n if isinstance(self.n, int) else 1


class TextPart(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text. Parts that name a URL are not taken: the engine would fetch it from where it stands."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal", forbid_unknown_fields=True):
    """A refusal that an assistant gave before."""

    refusal: str


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart | RefusalPart] | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    tool_calls: list[dict[str, Any]] | UnsetType | None = UNSET
    tool_call_id: str | UnsetType | None = UNSET
    function_call: dict[str, Any] | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType | None = UNSET
    annotations: Ignored = UNSET
    audio: Ignored = UNSET


class ChatRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Natural = UNSET
    logprobs: Flag = UNSET
    top_logprobs: Natural = UNSET
    tools: list[dict[str, Any]] | UnsetType | None = UNSET
    tool_choice: str | dict[str, Any] | UnsetType | None = UNSET
    parallel_tool_calls: Flag = UNSET
    reasoning_effort: str | UnsetType | None = UNSET
    include_reasoning: Flag = UNSET
    echo: Flag = UNSET
    add_generation_prompt: Flag = UNSET
    continue_final_message: Flag = UNSET


Prompt = str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


class CompletionRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/completions`."""

    prompt: Prompt
    echo: Flag = UNSET
    logprobs: Natural = UNSET
    suffix: str | UnsetType | None = UNSET
    best_of: Choices = UNSET


Request = TypeVar("Request", ChatRequest, CompletionRequest)


class RequestDecoder:
    """Decodes both calls, each by a decoder that was built once."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._chat = msgspec.json.Decoder(ChatRequest)
        self._completion = msgspec.json.Decoder(CompletionRequest)

    def chat(self, body: bytes) -> ChatRequest:
        """Return the chat request; raises InvalidRequestError that names the field."""
        return self._checked(self._chat, body)

    def completion(self, body: bytes) -> CompletionRequest:
        """Return the completions request; raises InvalidRequestError that names the field."""
        request = self._checked(self._completion, body)
        if isinstance(request.prompt, list):
            _check_prompts(request.prompt)
        return request

    def _checked(self, decoder: msgspec.json.Decoder[Request], body: bytes) -> Request:
        request = decode(decoder, body)
        refuse_duplicates(body, self._encoder.encode(request))
        return request


def drop_foreign_fields(request: GenerationRequest) -> None:
    """Unset every field that goes no further than the gateway."""
    for name in DroppedFields.__struct_fields__:
        setattr(request, name, UNSET)


def _check_prompts(prompt: list[str | int | list[int]]) -> None:
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise InvalidRequestError(
            "expected a string, a list of strings, of token ids, or of lists of token ids",
            param="prompt",
        )
    if int not in kinds and len(prompt) > MAX_PROMPTS:
        raise InvalidRequestError(
            f"expected at most {MAX_PROMPTS} prompts, got {len(prompt)}", param="prompt"
        )
