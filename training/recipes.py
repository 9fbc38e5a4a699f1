"""What decides which base model is made, and where it is kept; imports no tensor library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from training.corpus import Corpus

_FORMAT = 1  # raise when `training.base_model` would make another model from the same recipe


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base model will be."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    context: int  # tokens that the served model can attend to
    window: int  # tokens in one training sequence
    batch: int  # sequences in one step
    steps: int
    learning_rate: float
    embedding_rate: float
    max_seconds: float  # the schedule ends here on a slow machine, however many steps were made
    seed: int = 20


TINY = Recipe(
    name="tensafe-tiny",
    vocabulary=768,
    hidden=128,
    layers=2,
    heads=2,
    kv_heads=1,
    intermediate=320,
    context=512,
    window=96,
    batch=8,
    steps=90,
    learning_rate=2e-2,
    embedding_rate=2e-2,
    max_seconds=12,
)
DEMO = Recipe(
    name="tensafe-demo",
    vocabulary=2048,
    hidden=192,
    layers=3,
    heads=3,
    kv_heads=1,
    intermediate=512,
    context=1024,
    window=128,
    batch=8,
    steps=450,
    learning_rate=2e-2,
    embedding_rate=2e-2,
    max_seconds=65,
)


def model_directory(recipe: Recipe, corpus: Corpus, environ: Mapping[str, str]) -> Path:
    """Where `recipe`'s model is kept: `$XDG_CACHE_HOME/tensafe/models`, by default `~/.cache`."""
    identity = json.dumps([_FORMAT, asdict(recipe), corpus.digest], sort_keys=True)
    name = f"{recipe.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    return model_cache(environ) / name


def model_cache(environ: Mapping[str, str]) -> Path:
    """Where base models are kept between runs."""
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".cache"
    return Path(cache) / "tensafe" / "models"
