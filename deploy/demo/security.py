"""What must not work, tried on the running deployment; each try says what it found."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

from deploy.demo.onboarding import Http, Tenant, issue_key, upload
from deploy.demo.places import files_with
from deploy.report import Bar
from gateway.audit.verify import AuditTamperedError, verify_export

REVOCATION_LIMIT_S = 5.0
_GIVE_UP_S = 15.0
_CHANGED_BYTES = 64
_POLL_S = 0.05
_INSIDE_THE_ENVELOPE = 600  # bytes from the start of a package: in its signed manifest
_WRONG_REFUSALS = frozenset({"accepted", "conflict", "internal_error"})
_OWN_TO_A_REQUEST = frozenset({"x-request-id", "date"})


def strangers_adapter(stranger: Http, adapter: str) -> Bar:
    """Asking for another tenant's adapter is answered exactly as asking for none at all."""
    nobodys = "z" * len(adapter)
    differing = [
        f"{method} {path}"
        for method, path, body in _requests_for("{model}")
        if _answer(stranger, method, path, body, adapter)
        != _answer(stranger, method, path, body, nobodys)
    ]
    refused = stranger.send("GET", f"/v1/models/{adapter}").status_code
    return Bar(
        name="the other tenant's adapter looks like none",
        value=f"{refused}, equal on all routes" if not differing else ", ".join(differing),
        limit="404; status, headers, body equal",
        holds=not differing and refused == httpx2.codes.NOT_FOUND,
    )


def _requests_for(model: str) -> Iterator[tuple[str, str, dict[str, object] | None]]:
    message = {"role": "user", "content": "hello"}
    yield "POST", "/v1/chat/completions", {"model": model, "messages": [message]}
    yield "POST", "/v1/completions", {"model": model, "prompt": "hello"}
    yield "GET", f"/v1/models/{model}", None
    yield "GET", f"/v1/adapters/{model}", None
    yield "POST", f"/v1/adapters/{model}/activate", None
    yield "DELETE", f"/v1/adapters/{model}", None


def _answer(
    http: Http, method: str, path: str, body: dict[str, object] | None, adapter: str
) -> tuple[int, dict[str, str], str]:
    """An answer without what differs between any two requests: their ids, and the name asked."""
    content = None if body is None else {**body, "model": adapter}
    answer = http.send(method, path.replace("{model}", adapter), json=content)
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in _OWN_TO_A_REQUEST}
    text = answer.text.replace(answer.headers.get("x-request-id", "\0"), "")
    return answer.status_code, headers, text.replace(adapter, "")


def tampered_package(owner: Http, package: Path) -> Bar:
    """One changed bit or one missing byte, and nothing is stored; the package itself is fine.

    `package` must not have been uploaded before: then it would be refused for that.
    """
    genuine = package.read_bytes()
    before = owner.call("GET", "/v1/adapters")
    attempts = [genuine[:-1]]
    for place in (len(genuine) - 1000, len(genuine) // 2, _INSIDE_THE_ENVELOPE):
        changed = bytearray(genuine)
        changed[place] ^= 1
        attempts.append(bytes(changed))
    found = sorted({_refusal(upload(owner, attempt)) for attempt in attempts})
    unchanged = owner.call("GET", "/v1/adapters") == before
    accepted = upload(owner, genuine).is_success  # it was for the change that it was refused
    return Bar(
        name="a tampered package is refused",
        value=", ".join(found),
        limit="for what is wrong; nothing is stored",
        holds=unchanged and accepted and not _WRONG_REFUSALS & set(found),
    )


def foreign_package(stranger: Http, package: Path) -> Bar:
    """A genuine package of one tenant is worthless to another."""
    code = _refusal(upload(stranger, package.read_bytes()))
    return Bar(
        name="another tenant's package is refused",
        value=code,
        limit="refused",
        holds=code not in _WRONG_REFUSALS,
    )


def _refusal(answer: httpx2.Response) -> str:
    if not answer.is_error:
        return "accepted"
    return str(answer.json()["error"]["code"])


def revoked_key(admin: Http, base_url: str, tenant: Tenant) -> Bar:
    """A key that worked stops working soon after it is revoked."""
    issued = issue_key(admin, tenant.id, scopes=("inference",))
    with Http(base_url, issued["key"]) as holder:
        worked = holder.send("GET", "/v1/models").is_success
        admin.call("DELETE", f"/admin/v1/keys/{issued['id']}")
        revoked_at = time.monotonic()
        waited = 0.0
        while holder.send("GET", "/v1/models").is_success and waited < _GIVE_UP_S:
            time.sleep(_POLL_S)
            waited = time.monotonic() - revoked_at
        refused = holder.send("GET", "/v1/models").status_code == httpx2.codes.UNAUTHORIZED
    waited = time.monotonic() - revoked_at
    return Bar(
        name="a revoked key stops working",
        value=f"after {waited:.2f} s",
        limit=f"within {REVOCATION_LIMIT_S:.0f} s",
        holds=worked and refused and waited <= REVOCATION_LIMIT_S,
    )


def audit_log(admin: Http) -> list[Bar]:
    """The log verifies offline, and does not once any one byte of a copy is changed."""
    exported = admin.send("GET", "/admin/v1/audit").content
    records = verify_export(exported.splitlines(keepends=True)).sequence
    places = range(0, len(exported), max(1, len(exported) // _CHANGED_BYTES))
    detected = sum(_is_detected(exported, place) for place in places)
    return [
        Bar("the audit log verifies", f"{records} records", "every record and link", records > 0),
        Bar(
            name="one byte of the log changed",
            value=f"detected in {detected} of {len(places)} copies",
            limit="in every copy",
            holds=detected == len(places) > 0,
        ),
    ]


def _is_detected(exported: bytes, place: int) -> bool:
    changed = bytearray(exported)
    changed[place] ^= 1
    try:
        verify_export(bytes(changed).splitlines(keepends=True))
    except AuditTamperedError:
        return True
    return False


def nothing_at_rest(home: Path, *, weights: list[bytes], keys: list[str]) -> list[Bar]:
    """Neither weights nor API keys are in any file that the stack wrote; all of them in `home`."""
    with_weights = files_with(weights, home)
    with_keys = files_with([key.encode() for key in keys], home)
    return [
        Bar(
            name=f"{len(weights)} samples of adapter weights at rest",
            value=_found(with_weights, home),
            limit="in no file",
            holds=bool(weights) and not with_weights,
        ),
        Bar(
            name=f"{len(keys)} API keys at rest",
            value=_found(with_keys, home),
            limit="in no file",
            holds=bool(keys) and not with_keys,
        ),
    ]


def _found(paths: list[Path], home: Path) -> str:
    return ", ".join(str(path.relative_to(home)) for path in paths) or "in no file"
