"""An upload is kept whole, or not at all; every forgery is refused by its own error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapter_store import errors
from adapter_store.ingest import PackageIngest
from adapter_store.objects.paths import PackagePaths
from adapter_store.objects.store import ObjectStore, open_object_store
from adapter_store.tssp.signing import PublisherPrivateKey
from tests.fakes.forgery import FORGERIES, Forger
from tests.fakes.packages import ACME, GLOBEX, World, adapter_folder, parse, pieces

pytestmark = pytest.mark.anyio


async def test_an_upload_is_stored_sealed_with_its_recipients_beside_it(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    ingested = await world.ingest(package)
    header, payload = parse(package)
    paths = PackagePaths(ACME, ingested.digest)
    stored = await world.stored()
    assert stored.keys() == {paths.package, paths.recipients}
    sealed_header, sealed_payload = parse(stored[paths.package])
    assert (sealed_header.envelope, sealed_payload) == (header.envelope, payload)
    assert sealed_header.recipients == b"[]"
    assert stored[paths.recipients] == header.recipients
    assert ingested.size_bytes == len(stored[paths.package])
    assert ingested.manifest.name == "support"
    assert ingested.signer == world.publisher.public_key.key_id


@pytest.mark.parametrize("size", [1, 7, 4096, 10**9])
async def test_it_does_not_matter_in_which_pieces_an_upload_comes(
    world: World, adapter: Path, size: int
) -> None:
    package = world.pack(adapter)
    ingested = await PackageIngest(world.objects).ingest(
        pieces(package, size),
        tenant=ACME,
        trusted=[world.publisher.public_key],
        base_fingerprint=world.base_model.fingerprint,
        max_bytes=1 << 20,
    )
    assert ingested.digest in "".join(await world.stored())


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forgery_is_refused_by_its_own_error_and_leaves_nothing(
    world: World, forger: Forger, name: str
) -> None:
    forgery = FORGERIES[name]
    with pytest.raises(errors.AdapterStoreError) as caught:
        await world.ingest(forgery.make(forger))
    assert type(caught.value) is forgery.error
    assert await world.stored() == {}


async def test_the_genuine_package_passes_where_its_forgeries_do_not(
    world: World, forger: Forger
) -> None:
    await world.ingest(forger.package)
    await world.ingest(forger.other)


async def test_errors_say_what_was_expected_and_what_was_found(
    world: World, forger: Forger
) -> None:
    with pytest.raises(errors.WrongTenantError, match="expected globex, found 'acme'") as caught:
        await world.ingest(forger.package, tenant=GLOBEX)
    assert (caught.value.expected, caught.value.found) == ("globex", "'acme'")


async def test_a_package_of_a_key_that_was_taken_off_the_list_is_refused(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    world.publisher = PublisherPrivateKey.generate()
    with pytest.raises(errors.UnknownSignerError):
        await world.ingest(package)


async def test_a_replay_is_a_conflict_and_changes_nothing(world: World, adapter: Path) -> None:
    package = world.pack(adapter)
    await world.ingest(package)
    before = await world.stored()
    with pytest.raises(errors.ConflictError):
        await world.ingest(package)
    assert await world.stored() == before


async def test_a_replay_does_not_bring_back_the_recipients_of_an_admitted_package(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    name = await world.activated(package)
    with pytest.raises(errors.ConflictError):
        await world.ingest(package)
    assert PackagePaths(ACME, name.digest).recipients not in await world.stored()


async def test_a_package_over_the_limit_is_refused_by_its_header(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    header, _ = parse(package)

    async def header_only() -> AsyncIterator[bytes]:
        yield header.to_bytes() + bytes(1 << 20)
        raise AssertionError("the rest of the payload was asked for")

    with pytest.raises(errors.TooLargeError):
        await PackageIngest(world.objects).ingest(
            header_only(),
            tenant=ACME,
            trusted=[world.publisher.public_key],
            base_fingerprint=world.base_model.fingerprint,
            max_bytes=len(header.to_bytes()),
        )


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("url", ["memory:///", "file://"])
async def test_a_client_that_breaks_off_leaves_nothing(
    world: World, adapter: Path, tmp_path: Path, url: str
) -> None:
    if url == "file://":
        world.objects = open_object_store(f"file://{tmp_path}/objects")
    package = world.pack(adapter)

    class GoneError(Exception):
        pass

    async def broken_off() -> AsyncIterator[bytes]:
        yield package[: len(package) // 2]
        raise GoneError

    with pytest.raises(GoneError):
        await PackageIngest(world.objects).ingest(
            broken_off(),
            tenant=ACME,
            trusted=[world.publisher.public_key],
            base_fingerprint=world.base_model.fingerprint,
            max_bytes=1 << 20,
        )
    assert await world.stored() == {}
    assert files_under(tmp_path / "objects") == []
    await world.ingest(package)


class Gate(ObjectStore):
    """A store that stops before or after one of its steps until the test lets it go on."""

    def __init__(self, inner: ObjectStore, *, step: str, after: bool) -> None:
        super().__init__(inner._backend)
        self.step, self.after = step, after
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def _stop(self, step: str, *, after: bool) -> None:
        if (step, after) == (self.step, self.after):
            self.reached.set()
            await self.open.wait()

    async def move_new(self, source: str, target: str) -> None:
        await self._stop("move", after=False)
        await super().move_new(source, target)
        await self._stop("move", after=True)

    async def replace(self, path: str, data: bytes) -> None:
        await self._stop("recipients", after=False)
        await super().replace(path, data)
        await self._stop("recipients", after=True)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["move", "recipients"])
async def test_a_cancellation_at_any_step_leaves_nothing(
    world: World, adapter: Path, step: str, *, after: bool
) -> None:
    gate = Gate(world.objects, step=step, after=after)
    world.objects = gate
    upload = asyncio.create_task(world.ingest(world.pack(adapter)))
    await asyncio.wait_for(gate.reached.wait(), 10)
    upload.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await world.stored() == {}


async def test_of_two_uploads_of_one_package_at_once_one_is_kept(
    world: World, adapter: Path
) -> None:
    package = world.pack(adapter)
    results = await asyncio.gather(
        *(world.ingest(package) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, errors.ConflictError) for result in results) == 3
    assert len(await world.stored()) == 2
    digest = next(r.digest for r in results if not isinstance(r, BaseException))
    await world.record(digest, "admitting")
    world.loader().admit(ACME, digest)


async def test_a_store_that_fails_at_the_last_step_keeps_nothing(
    world: World, adapter: Path
) -> None:
    class Failing(ObjectStore):
        async def replace(self, path: str, data: bytes) -> None:
            raise errors.StorageUnavailableError("the disk is full")

    world.objects = Failing(world.objects._backend)
    with pytest.raises(errors.StorageUnavailableError):
        await world.ingest(world.pack(adapter))
    assert await world.stored() == {}


async def test_different_adapters_of_one_tenant_live_side_by_side(
    world: World, tmp_path: Path
) -> None:
    digests = {
        (await world.ingest(world.pack(adapter_folder(tmp_path / str(seed), seed=seed)))).digest
        for seed in range(3)
    }
    assert len(digests) == 3
