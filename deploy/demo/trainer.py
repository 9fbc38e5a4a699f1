"""The child process that trains: the base model if it is missing, then both tenants' adapters.

Usage: python -m deploy.demo.trainer JOB_FILE MESSAGES_FILE
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
import transformers

from adapter_store.tssp.privacy import NoPrivacy, PrivacyStatement
from deploy.demo.messages import (
    PLAIN_TENANT,
    PRIVATE_TENANT,
    AdapterReady,
    Failed,
    MessageWriter,
    ModelReady,
    Progressed,
    TrainingJob,
)
from deploy.demo.places import stopping_on_sigterm
from training.base_model import make_base_model
from training.corpus import Corpus, CorpusError, load_corpus
from training.lora import LoraSettings, TrainingError, TrainingReport, train_lora
from training.progress import Progress
from training.recipes import DEMO

_MESSAGE_INTERVAL_S = 0.1


def main(job_file: Path, messages: MessageWriter) -> int:
    """Do the job; returns the exit status."""
    transformers.utils.logging.disable_progress_bar()
    job = msgspec.json.decode(job_file.read_bytes(), type=TrainingJob)
    try:
        corpus = load_corpus()
        _base_model(job, corpus, messages)
        # The engine starts meanwhile, and needs the other cores.
        torch.set_num_threads(max(1, _cores() // 2))
        _plain(job, corpus, messages)
        _private(job, corpus, messages)
    except (CorpusError, TrainingError, OSError) as error:
        messages.send(Failed(str(error)))
        return 1
    return 0


def _base_model(job: TrainingJob, corpus: Corpus, messages: MessageWriter) -> None:
    directory = Path(job.model_dir)
    if not directory.is_dir():
        make_base_model(directory, DEMO, corpus=corpus, on_progress=_reporter("base", messages))
    messages.send(ModelReady())


def _plain(job: TrainingJob, corpus: Corpus, messages: MessageWriter) -> None:
    report = train_lora(
        Path(job.model_dir),
        corpus.mail.train,
        Path(job.plaintext_dir, PLAIN_TENANT),
        settings=LoraSettings(max_seconds=job.max_seconds),
        on_progress=_reporter(PLAIN_TENANT, messages),
    )
    privacy = NoPrivacy(dataset=corpus.mail.subject)
    messages.send(_ready(PLAIN_TENANT, report, privacy))


def _private(job: TrainingJob, corpus: Corpus, messages: MessageWriter) -> None:
    from training.dp_sgd import DpSettings, train_lora_dp  # opacus takes seconds to import

    report, spent = train_lora_dp(
        Path(job.model_dir),
        corpus.manual.train,
        Path(job.plaintext_dir, PRIVATE_TENANT),
        settings=DpSettings(max_seconds=job.max_seconds),
        on_progress=_reporter(PRIVATE_TENANT, messages),
    )
    messages.send(_ready(PRIVATE_TENANT, report, spent.statement(dataset=corpus.manual.subject)))


def _ready(tenant: str, report: TrainingReport, privacy: PrivacyStatement) -> AdapterReady:
    return AdapterReady(
        tenant=tenant,
        steps=report.steps,
        records=report.records,
        first_loss=report.first_loss,
        last_loss=report.last_loss,
        seconds=report.seconds,
        privacy=privacy,
    )


def _reporter(subject: str, messages: MessageWriter) -> Callable[[Progress], None]:
    """Pass progress on, but not more often than anybody can look."""
    last_sent = 0.0

    def report(progress: Progress) -> None:
        nonlocal last_sent
        now = time.monotonic()
        if now - last_sent >= _MESSAGE_INTERVAL_S or progress.done == progress.total:
            last_sent = now
            messages.send(Progressed(subject, progress.done, progress.total, progress.loss))

    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    with stopping_on_sigterm():
        sys.exit(main(Path(sys.argv[1]), MessageWriter(Path(sys.argv[2]))))
