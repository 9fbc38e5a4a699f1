"""The table of errors: complete, and discreet."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest

import adapter_store
import gateway
from adapter_store.errors import AdapterStoreError
from gateway.adapters.pool_control import AdmissionRefusedError
from gateway.api.problems import PROBLEMS, error_code, error_envelope, problem_of, problem_response
from gateway.errors import (
    GatewayError,
    InvalidRequestError,
    OverloadedError,
    RateLimitedError,
    UpstreamError,
)

SECRET = "/srv/secret/path"


def subclasses(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from subclasses(child)


def every_error() -> list[type[Exception]]:
    for package in (gateway, adapter_store):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations." not in module.name and ".cli" not in module.name:
                importlib.import_module(module.name)
    found = {*subclasses(GatewayError), *subclasses(AdapterStoreError)}
    own = ("gateway.", "adapter_store.")
    return sorted((e for e in found if e.__module__.startswith(own)), key=lambda e: e.__name__)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_and_a_code(kind: type[Exception]) -> None:
    problem = problem_of(kind.__new__(kind))
    assert 400 <= problem.status < 600
    code = kind.code  # type: ignore[attr-defined]
    assert code == code.lower()
    assert " " not in code


@pytest.mark.parametrize("kind", sorted(PROBLEMS, key=lambda kind: kind.__name__))
def test_a_fault_of_ours_never_shows_its_own_text(kind: type[Exception]) -> None:
    problem = PROBLEMS[kind]
    if problem.status >= 500 and not issubclass(kind, OverloadedError):
        assert problem.text is not None
    error = kind.__new__(kind)
    error.args = (SECRET,)
    vars(error).update(param=None, detail_code=None, reason_code="why")
    shown = error_envelope(error).error.message
    assert (SECRET in shown) is (problem.text is None)


def test_an_unexpected_error_is_a_plain_500() -> None:
    response = problem_response(KeyError(SECRET))
    assert response.status_code == 500
    assert SECRET.encode() not in bytes(response.body)
    assert error_code(KeyError(SECRET)) == "internal_error"


def test_the_shape_is_openais() -> None:
    error = InvalidRequestError("expected a number", param="n", code="invalid_type")
    assert msgspec.json.decode(bytes(problem_response(error).body)) == {
        "error": {
            "message": "expected a number",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_type",
        }
    }


@pytest.mark.parametrize("kind", [RateLimitedError, OverloadedError])
def test_those_who_should_wait_are_told_how_long(kind: type) -> None:
    assert problem_response(kind("later", retry_after_s=1.2)).headers["retry-after"] == "2"


def test_a_refused_adapter_keeps_the_pools_reason() -> None:
    error = AdmissionRefusedError("invalid_tensors", "rank 64 is above 8")
    response = problem_response(error)
    assert response.status_code == 422
    assert error_envelope(error).error.code == "invalid_tensors"
    assert error_envelope(error).error.message == "rank 64 is above 8"


def test_a_long_message_is_cut() -> None:
    assert len(error_envelope(InvalidRequestError("x" * 10_000)).error.message) == 1000


def test_an_upstream_error_is_not_the_clients() -> None:
    assert problem_of(UpstreamError()).status == 502
