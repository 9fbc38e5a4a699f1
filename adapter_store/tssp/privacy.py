"""What a package states about the privacy of its training: events, to be accounted for by others.

The events carry the names and the meaning of dp-accounting's DpEvent classes. A statement is
signed, hence attributable; it is never proof, and `claimed_epsilon` is never believed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Probability = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=10**9)]


class GaussianDpEvent(Struct, frozen=True, forbid_unknown_fields=True, tag=True, tag_field="type"):
    """One release with Gaussian noise of `noise_multiplier` times its sensitivity."""

    noise_multiplier: Positive


class PoissonSampledDpEvent(
    Struct, frozen=True, forbid_unknown_fields=True, tag=True, tag_field="type"
):
    """`event` on a batch that each record joins independently with `sampling_probability`."""

    sampling_probability: Probability
    event: GaussianDpEvent


class SelfComposedDpEvent(
    Struct, frozen=True, forbid_unknown_fields=True, tag=True, tag_field="type"
):
    """`event`, `count` times over."""

    event: GaussianDpEvent | PoissonSampledDpEvent
    count: Count


DpEvent = GaussianDpEvent | PoissonSampledDpEvent | SelfComposedDpEvent


class NoPrivacy(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="none", tag_field="kind"
):
    """Trained without differential privacy on `dataset`."""

    dataset: Text


class DpSgdPrivacy(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="dp-sgd", tag_field="kind"
):
    """Trained with DP-SGD on `dataset`; `events` are what was done to it, in order."""

    dataset: Text
    unit: Literal["example", "user"]
    sampling: Literal["poisson", "truncated-poisson", "shuffled"]
    events: Annotated[tuple[DpEvent, ...], Meta(min_length=1, max_length=1000)]
    delta: Probability
    claimed_epsilon: Positive
    accountant: Text
    library_versions: Annotated[dict[Text, Text], Meta(max_length=32)]


PrivacyStatement = NoPrivacy | DpSgdPrivacy
