"""What has to be made before anything can be served: a base model, and an adapter per tenant."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from deploy.demo.messages import (
    PLAIN_TENANT,
    PRIVATE_TENANT,
    AdapterReady,
    Failed,
    MessageReader,
    ModelReady,
    Progressed,
    TrainingJob,
)
from deploy.demo.steps import Steps
from deploy.local.processes import ChildProcess
from gateway.cli.errors import CliError, ExitCode
from training.corpus import Corpus
from training.recipes import DEMO, model_directory

_STEPS: Final = {
    "base": "base model",
    PLAIN_TENANT: f"{PLAIN_TENANT}'s adapter: LoRA",
    PRIVATE_TENANT: f"{PRIVATE_TENANT}'s adapter: LoRA with DP-SGD",
}
_OWN_MODEL_SECONDS: Final = 20.0
_GIVEN_MODEL_SECONDS: Final = 120.0  # for each adapter: the model may be a hundred times larger
_GIVEN_MODEL_CONTEXT: Final = 2048  # tokens; a larger one would need more memory for nothing


@dataclass(frozen=True)
class BaseModel:
    """The model that everything is built on."""

    directory: Path
    name: str
    pool_arguments: tuple[str, ...]
    training_seconds: float  # at most, for one adapter
    is_given: bool

    @property
    def exists(self) -> bool:
        """Whether it is there already, or must be trained first."""
        return self.directory.is_dir()


def choose_model(given: str | None, corpus: Corpus, environ: Mapping[str, str]) -> BaseModel:
    """The model that was asked for, or the demo's own; raises CliError if it cannot be had."""
    if given is None:
        return BaseModel(
            directory=model_directory(DEMO, corpus, environ),
            name=DEMO.name,
            pool_arguments=("--dtype", "float32", "--max-lora-rank", "8"),
            training_seconds=_OWN_MODEL_SECONDS,
            is_given=False,
        )
    from runtime.errors import PoolConfigurationError
    from runtime.model_source import locate_model  # imports the client of the Hub

    try:
        source = locate_model(given)
        config = json.loads((source.directory / "config.json").read_bytes())
    except (PoolConfigurationError, OSError, ValueError) as error:
        message = f"{given} cannot be the base model: {error}"
        raise CliError(message, code="no_model", exit_code=ExitCode.USAGE) from error
    context = min(_GIVEN_MODEL_CONTEXT, config.get("max_position_embeddings", 2**31))
    return BaseModel(
        directory=source.directory,
        name=source.name,
        pool_arguments=("--max-model-len", str(context), "--max-lora-rank", "8"),
        training_seconds=_GIVEN_MODEL_SECONDS,
        is_given=True,
    )


@dataclass
class Training:
    """The process that trains, and what it has told so far."""

    process: ChildProcess
    _messages: MessageReader
    _steps: Steps
    model_ready: bool = False
    adapters: dict[str, AdapterReady] = field(default_factory=dict)

    @classmethod
    def create(cls, home: Path, plaintext: Path, base_model: BaseModel, steps: Steps) -> Self:
        """Prepare the process; it keeps its files in `home` and adapters in `plaintext`."""
        directory = home / "training"
        directory.mkdir(mode=0o700)
        job, messages = directory / "job.json", directory / "messages.jsonl"
        job.write_bytes(
            msgspec.json.encode(
                TrainingJob(
                    model_dir=str(base_model.directory),
                    plaintext_dir=str(plaintext),
                    max_seconds=base_model.training_seconds,
                )
            )
        )
        messages.touch()
        process = ChildProcess(
            "training",
            [sys.executable, "-m", "deploy.demo.trainer", str(job), str(messages)],
            {**os.environ, "TMPDIR": str(directory), "HF_HUB_OFFLINE": "1"},
            directory / "training.log",
            stop_grace_s=5.0,
        )
        if not base_model.exists:
            steps.begin(_STEPS["base"])
        return cls(process, MessageReader(messages), steps)

    @property
    def done(self) -> bool:
        """Whether both adapters are there."""
        return {PLAIN_TENANT, PRIVATE_TENANT} <= self.adapters.keys()

    def poll(self) -> None:
        """Show the news; raises CliError or ProcessError if there will be no more."""
        running = self.process.running  # before reading: the last words come before the end
        for message in self._messages:
            match message:
                case Progressed():
                    note = "" if message.loss is None else f"loss {message.loss:.2f}"
                    name = _STEPS[message.subject]
                    self._steps.advance(name, message.done, message.total, note)
                case ModelReady():
                    self.model_ready = True
                    self._steps.finish(_STEPS["base"])
                case AdapterReady():
                    self.adapters[message.tenant] = message
                    self._steps.finish(_STEPS[message.tenant], _summary(message))
                case Failed():
                    raise CliError(f"training failed: {message.message}", code="training_failed")
        if not (running or self.done):
            self.process.check()


def _summary(ready: AdapterReady) -> str:
    return f"{ready.steps} steps, loss {ready.first_loss:.2f} → {ready.last_loss:.2f}"
