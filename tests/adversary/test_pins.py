"""What a pinned repository's owner may do to the mirror."""

import logging

import pytest

from tests.conftest import StartMirror
from tests.support.images import Image, image, index, random_layer
from tests.support.upstream import ScriptedRegistry


async def test_an_index_without_end_is_followed_to_a_bound(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mirror.pull.versions._MOST", 30)
    number = iter(range(1000))

    def tree(depth: int) -> Image:
        if not depth:
            return image(random_layer(10, seed=next(number)))
        return index(tree(depth - 1), tree(depth - 1), tree(depth - 1))

    upstream.add(tree(4), "library/app", "1")
    with caplog.at_level(logging.WARNING):
        mirror = await start_mirror(pin=[{"image": "app:1"}])
        await upstream.was_asked("manifest", count=10)
        await mirror.until_metric("mirror_pins", 1, state="incomplete")
        while "more than 30 blobs" not in caplog.text:
            await mirror.metric("mirror_pins")
    assert len(upstream.asked("manifest")) < 40
    assert upstream.asked("blob") == []


async def test_layers_that_are_larger_than_their_manifest_says_push_no_other_pin_out(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    honest = upstream.add(image(random_layer(100_000, seed=1)), "library/app", "1")
    liar = image(random_layer(400_000, seed=2))
    small = liar.manifest.replace(b'"size": 400', b'"size": 1')
    assert small != liar.manifest
    lying = Image(manifest=small, media_type=liar.media_type, blobs=liar.blobs)
    upstream.add(lying, "library/liar", "1")
    mirror = await start_mirror(
        pin=[{"image": "app:1"}, {"image": "liar:1"}], store={"max_size": "300 KB"}
    )
    await mirror.until_metric("mirror_pins", 1, state="complete")
    await upstream.was_asked("blob", repository="library/liar")
    await mirror.until_metric("mirror_fills_active", 0)
    upstream.forget()
    for digest in honest.blobs:
        assert (await mirror.client.blob("app", digest)).digest == digest
    assert upstream.asked("blob", repository="library/app") == []
    assert await mirror.metric("mirror_store_bytes") <= 300_000
