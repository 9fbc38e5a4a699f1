"""The demo from beginning to end: prepare, serve, talk, attack, stop, and look at what is left."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from deploy.demo import security
from deploy.demo.conversation import Talk, Throughput, speaker, talk
from deploy.demo.messages import PLAIN_TENANT, PRIVATE_TENANT
from deploy.demo.onboarding import Http, Tenant, create_tenant, pack_adapter, serve_package
from deploy.demo.places import (
    files_with,
    home_directory,
    not_interrupted,
    plaintext_directory,
    processes_of,
    remove_directory,
    weight_samples,
)
from deploy.demo.preparation import BaseModel, Training, choose_model
from deploy.demo.results import Outcome, TenantResult
from deploy.demo.steps import Steps
from deploy.local.stack import LocalStack
from deploy.report import Bar
from gateway.cli.errors import CliError
from training.corpus import Corpus, load_corpus

KeepRunning = Callable[[Outcome, str, Tenant], None]
"""Is given what was found, the gateway's URL and a tenant; everything is stopped after it."""

_ADAPTERS: Final = {PLAIN_TENANT: "mail", PRIVATE_TENANT: "manual"}
_QUESTIONS: Final = {
    PLAIN_TENANT: 'def send(self, message):\n    """Send a message to the server."""',
    PRIVATE_TENANT: "What is a class definition?",
}
_POLL_S: Final = 0.1
_GATEWAY_START_S: Final = 30.0


def run_demo(model: str | None, steps: Steps, *, keep_running: KeepRunning | None) -> Outcome:
    """Run everything; nothing of it is left when this returns or raises.

    Raises CliError, StackError or ProcessError when a step cannot be done at all; a check that
    fails is a bar of the outcome that does not hold.
    """
    started = time.monotonic()
    corpus = load_corpus()
    base_model = choose_model(model, corpus, os.environ)
    made_model = not base_model.exists
    kept_s = 0.0
    with ExitStack() as cleanup:
        home = cleanup.enter_context(home_directory())
        plaintext = cleanup.enter_context(plaintext_directory())
        training = Training.create(home, plaintext, base_model, steps)
        cleanup.callback(_uninterrupted, training.process.stop)
        training.process.start()
        stack = LocalStack.create(
            home,
            model=base_model.directory,
            served_model_name=base_model.name,
            pool_arguments=base_model.pool_arguments,
        )
        cleanup.callback(_uninterrupted, stack.stop)
        _bring_up(stack, training, base_model, steps)
        outcome, tenants = _show(stack, training, base_model, corpus, plaintext, steps)
        if keep_running is not None:
            steps.hide()
            kept_from = time.monotonic()
            keep_running(outcome, stack.base_url, tenants[0])
            kept_s = time.monotonic() - kept_from
        steps.begin("stop everything")
    outcome.checks.append(_nothing_left(home, plaintext))
    steps.finish("stop everything")
    outcome.add_time(time.monotonic() - started - kept_s, made_model=made_model)
    return outcome


def _bring_up(stack: LocalStack, training: Training, model: BaseModel, steps: Steps) -> None:
    """Start the pool as soon as there is a model, and wait for it and for both adapters."""
    steps.begin("gateway and pool")
    if model.exists:
        stack.pool.start()  # takes longest
    stack.gateway.start()
    while not training.model_ready:
        training.poll()
        time.sleep(_POLL_S)
    if not stack.pool.started:
        stack.pool.start()
    stack.wait_until_ready(on_wait=training.poll)
    steps.finish("gateway and pool", "ready")
    while not training.done:
        training.poll()
        time.sleep(_POLL_S)


def _show(
    stack: LocalStack,
    training: Training,
    model: BaseModel,
    corpus: Corpus,
    plaintext: Path,
    steps: Steps,
) -> tuple[Outcome, list[Tenant]]:
    """Everything that is done with a running deployment."""
    with Http(stack.base_url, stack.admin_key) as admin, ExitStack() as connections:
        steps.begin("tenants and keys")
        tenants = [
            create_tenant(admin, name, name=name.capitalize(), adapter=adapter)
            for name, adapter in _ADAPTERS.items()
        ]
        https = [
            connections.enter_context(Http(stack.base_url, tenant.api_key)) for tenant in tenants
        ]
        steps.finish("tenants and keys")

        steps.begin("pack, upload, activate")
        samples = _samples(plaintext)
        packages = []
        for tenant, http in zip(tenants, https, strict=True):
            package = stack.home / f"{tenant.adapter}.tssp"
            privacy = training.adapters[tenant.id].privacy
            pack_adapter(http, tenant, plaintext / tenant.id, package, privacy=privacy)
            packages.append(package)
        remove_directory(plaintext)
        for http, package in zip(https, packages, strict=True):
            serve_package(http, package)
        steps.finish("pack, upload, activate", "plaintext removed")

        steps.begin("both tenants talk at once")
        talks, throughput = _talk(stack, tenants, corpus, model)
        steps.finish("both tenants talk at once", f"{throughput.tokens_per_s:.0f} tokens/s")

        steps.begin("what must not work")
        acme, globex = https
        checks = [
            security.strangers_adapter(globex, tenants[0].adapter),
            security.tampered_package(acme, packages[0]),
            security.foreign_package(globex, packages[0]),
            security.revoked_key(admin, stack.base_url, tenants[1]),
            *security.audit_log(admin),
            *security.nothing_at_rest(
                stack.home,
                plaintext.parent,
                weights=samples,
                keys=[stack.admin_key, *(tenant.api_key for tenant in tenants)],
            ),
        ]
        steps.finish("what must not work")
    results = [
        TenantResult(
            tenant=tenant.id,
            adapter=tenant.adapter,
            subject=domain.subject,
            training=training.adapters[tenant.id],
            talk=said,
        )
        for tenant, domain, said in zip(tenants, corpus.domains, talks, strict=True)
    ]
    bars = [bar for result in results for bar in result.bars()]
    return Outcome(tenants=results, throughput=throughput, checks=[*bars, *checks]), tenants


def _samples(plaintext: Path) -> list[bytes]:
    """Bytes of every adapter's weights; raises if a search could not find them."""
    samples = [
        sample for adapter in sorted(plaintext.iterdir()) for sample in weight_samples(adapter)
    ]
    if len(files_with(samples, [plaintext])) != len(_ADAPTERS):
        raise CliError("the search for plaintext does not find it where it is", code="bad_search")
    return samples


def _talk(
    stack: LocalStack, tenants: list[Tenant], corpus: Corpus, model: BaseModel
) -> tuple[tuple[Talk, Talk], Throughput]:
    speakers = [
        speaker(stack.base_url, tenant, domain.held_out, question=_QUESTIONS[tenant.id])
        for tenant, domain in zip(tenants, corpus.domains, strict=True)
    ]
    one, two, throughput = asyncio.run(talk(speakers[0], speakers[1], base_model=model.name))
    return (one, two), throughput


def _uninterrupted(stop: Callable[[], None]) -> None:
    with not_interrupted():
        stop()


def _nothing_left(home: Path, plaintext: Path) -> Bar:
    left = [str(path) for path in (home, plaintext) if path.exists()]
    left += [f"process {number}" for number in processes_of(home)]
    return Bar(
        name="processes, sockets and files left behind",
        value=", ".join(left) or "none",
        limit="none",
        holds=not left,
    )
