"""Where a base model's folder is: given, or fetched from the Hugging Face Hub once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from runtime.errors import PoolConfigurationError

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*")
"""What an engine needs; never pickles, never code."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A base model's folder, and what it is called."""

    directory: Path
    name: str


def locate_model(model: str) -> ModelSource:
    """Return the folder of `model`, a path or a Hub id; raises PoolConfigurationError.

    The engine itself never downloads: it is started offline.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        directory = directory.resolve()
        return ModelSource(directory, directory.name)
    if directory.is_absolute() or model.startswith(("./", "../", "~")):
        raise PoolConfigurationError(f"there is no model folder at {directory}")
    try:
        fetched = snapshot_download(model, allow_patterns=list(MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise PoolConfigurationError(
            f"expected a model's folder or its Hub id, got {model!r}: {type(error).__name__}"
        ) from error
    return ModelSource(Path(fetched), model)
