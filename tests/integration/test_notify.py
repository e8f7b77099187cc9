"""Webhooks: somebody is told of what happens, and pulls know nothing of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import owned_tasks
from mirror.config import Notify
from mirror.config.notify import Occasion
from mirror.control.noticing import Notice
from mirror.control.webhooks import Webhook
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics
from tests.conftest import StartMirror
from tests.support.auth import BasicAuth
from tests.support.clock import FakeClock
from tests.support.hooks import Hook
from tests.support.images import image, random_layer
from tests.support.mirror import document, sample, start_inner_mirror, upstream_at
from tests.support.process import until
from tests.support.tls import Authority
from tests.support.upstream import RateLimit, ScriptedRegistry

SOON = Backoff(first=0.01, most=0.05)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with Hook() as hook:
        yield hook


def notice(text: str = "something", occasion: Occasion = "disk") -> Notice:
    return Notice(
        id=text,
        occasion=occasion,
        state="trouble",
        subject="/store",
        text=text,
        at=1,
        mirror="m",
    )


class Telling:
    """A webhook by itself, and its metrics."""

    def __init__(self, webhook: Webhook, metrics: Metrics) -> None:
        self.tell = webhook.tell
        self._metrics = metrics

    def counted(self, outcome: str) -> float:
        exposition = self._metrics.exposition().decode()
        return sample(exposition, "mirror_notices_total", outcome=outcome)

    async def has_counted(self, outcome: str, value: float) -> None:
        """Return when it has."""

        async def has() -> bool:
            return self.counted(outcome) == value

        await until(has, within=20)


@asynccontextmanager
async def telling(config: Notify, *, given_up_after: float = 60) -> AsyncIterator[Telling]:
    metrics = Metrics()
    async with open_sessions() as sessions, owned_tasks(metrics.faults.note) as tasks:
        webhook = Webhook(config, sessions, metrics, backoff=SOON, given_up_after=given_up_after)
        tasks.keep(webhook.deliver_forever, name="notify")
        yield Telling(webhook, metrics)


async def test_an_outage_and_its_end_are_told(
    start_mirror: StartMirror, upstream: ScriptedRegistry, hook: Hook
) -> None:
    upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "1")
    mirror = await start_mirror(
        notify=[{"url": hook.url}], fill={"connect_timeout": "500ms"}, tags={"fresh_for": "0s"}
    )
    await mirror.client.manifest("alpine", "1")
    await upstream.stop()
    assert (await mirror.client.manifest("alpine", "1")).status == 200
    (down,) = await hook.was_told(occasion="upstream", state="trouble")
    assert upstream.url in down["text"]
    assert down["upstream"] == "docker.io"
    await upstream.start()
    (back,) = await hook.was_told(occasion="upstream", state="well")
    assert back["subject"] == down["subject"]
    assert back["id"] != down["id"]
    await mirror.until_metric("mirror_notices_total", 2, outcome="delivered")


async def test_wrong_bytes_are_told_with_who_sent_them(
    start_mirror: StartMirror, upstream: ScriptedRegistry, hook: Hook
) -> None:
    app = upstream.add(image(random_layer(5000, seed=1)), "library/alpine", "1")
    mirror = await start_mirror(notify=[{"url": hook.url, "occasions": ["digest-mismatch"]}])
    await mirror.client.manifest("alpine", "1")
    upstream.fault(kind="blob", corrupt_at=10)
    with pytest.raises(ClientPayloadError):
        await mirror.client.blob("library/alpine", app.layers[0])
    (told,) = await hook.was_told(occasion="digest-mismatch")
    assert told["digest"] == app.layers[0]
    assert told["endpoint"] == upstream.host


async def test_a_quota_that_runs_out_is_told(
    start_mirror: StartMirror, upstream: ScriptedRegistry, hook: Hook
) -> None:
    upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "1")
    upstream.rate_limit = RateLimit(limit=100, remaining=9)
    mirror = await start_mirror(notify=[{"url": hook.url}])
    await mirror.client.manifest("alpine", "1")
    (told,) = await hook.was_told(occasion="quota")
    assert told["text"] == f"8 of 100 pulls are left at {upstream.url}"


async def test_a_password_that_is_refused_is_told(
    start_mirror: StartMirror, upstream: ScriptedRegistry, hook: Hook, tmp_path: Path
) -> None:
    upstream.auth = BasicAuth(users={"joe": "another"})
    password = tmp_path / "password"
    password.write_text("an old one", encoding="utf-8")
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    notify = [{"url": hook.url, "occasions": ["credentials"]}]
    mirror = await start_mirror({"docker.io": settings}, notify=notify)
    assert (await mirror.client.manifest("alpine", "1")).status == 403
    (told,) = await hook.was_told(occasion="credentials", state="trouble")
    assert told["endpoint"] == upstream.host
    assert "password_file" in told["text"]
    assert "an old one" not in told["text"]


async def test_a_hook_that_hangs_holds_up_no_pull(
    start_mirror: StartMirror, upstream: ScriptedRegistry, hook: Hook
) -> None:
    app = upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "1")
    upstream.rate_limit = RateLimit(limit=100, remaining=9)
    hook.hangs = True
    mirror = await start_mirror(notify=[{"url": hook.url}])
    await mirror.client.manifest("alpine", "1")
    await hook.was_told(occasion="quota")
    for digest in app.blobs:
        assert (await mirror.client.blob("library/alpine", digest)).digest == digest


async def test_webhooks_come_and_go_with_a_reload(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock, hook: Hook
) -> None:
    upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "1")
    upstream.rate_limit = RateLimit(limit=100, remaining=9)
    settings = document({"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store")
    mirror = await start_inner_mirror(settings, clock)
    try:
        await mirror.client.manifest("alpine", "1")
        async with Hook() as other:
            await mirror.reload(settings | {"notify": [{"url": hook.url}]})
            await hook.was_told(occasion="quota", state="trouble")  # it holds since before
            both = [{"url": hook.url}, {"url": other.url}]
            await mirror.reload(settings | {"notify": both})
            await other.was_told(occasion="quota", state="trouble")
            assert len(hook.told) == 1  # which it has been told before
            await mirror.reload(settings | {"notify": [{"url": other.url}]})
            await upstream.stop()
            clock.advance(3600)
            await mirror.client.manifest("alpine", "1")
            await other.was_told(occasion="upstream", state="trouble")
            assert len(hook.told) == 1
            await mirror.reload(settings)
    finally:
        await mirror.stop()


async def test_what_a_hook_does_not_take_is_sent_again_in_order(hook: Hook) -> None:
    hook.answers = [(503, {}), (429, {"Retry-After": "0"}), (204, {})]
    async with telling(Notify(url=hook.url)) as its:
        its.tell(notice("first"))
        its.tell(notice("second"))
        await hook.was_told(text="second")
        assert hook.texts() == ["first", "first", "first", "second"]
        assert its.counted("failed") == 0


async def test_who_is_not_there_is_told_later(hook: Hook) -> None:
    await hook.stop()
    async with telling(Notify(url=hook.url)) as its:
        its.tell(notice("while it was away"))
        await hook.start()
        await hook.was_told(text="while it was away")


async def test_what_is_refused_is_given_up_and_the_next_is_told(hook: Hook) -> None:
    hook.answers = [(404, {}), (302, {"Location": "/elsewhere"})]
    async with telling(Notify(url=hook.url)) as its:
        for text in ("refused", "sent elsewhere", "taken"):
            its.tell(notice(text))
        await hook.was_told(text="taken")
        assert hook.texts() == ["refused", "sent elsewhere", "taken"]
        assert {it.path for it in hook.told} == {"/hooks/T0/secret"}
        assert its.counted("failed") == 2


async def test_what_nobody_takes_is_given_up_in_time(hook: Hook) -> None:
    hook.answers = [(500, {})] * 1000
    async with telling(Notify(url=hook.url), given_up_after=0.2) as its:
        its.tell(notice("late"))
        await hook.was_told(text="late")
        await its.has_counted("failed", 1)
        hook.answers.clear()
        its.tell(notice("the next"))
        await hook.was_told(text="the next")


async def test_of_too_many_the_oldest_are_not_told(hook: Hook) -> None:
    hook.hangs = True
    async with telling(Notify(url=hook.url)) as its:
        its.tell(notice("under way"))
        await hook.was_told(text="under way")
        for number in range(300):
            its.tell(notice(str(number)))
        assert its.counted("dropped") == 300 - 256


async def test_only_what_is_wanted_is_told(hook: Hook) -> None:
    async with telling(Notify(url=hook.url, occasions=("quota",))) as its:
        its.tell(notice("not wanted", "disk"))
        its.tell(notice("wanted", "quota"))
        await hook.was_told(text="wanted")
        assert hook.texts() == ["wanted"]


async def test_a_secret_is_sent_as_it_stands_in_its_file_now(hook: Hook, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer one\n")
    config = Notify(url=hook.url, header="X-Token", header_file=secret)
    async with telling(config) as its:
        its.tell(notice("one"))
        await hook.was_told(text="one")
        secret.write_text("Bearer two\n")
        its.tell(notice("two"))
        await hook.was_told(text="two")
        assert [it.headers["X-Token"] for it in hook.told] == ["Bearer one", "Bearer two"]


async def test_an_address_that_is_a_secret_stands_in_a_file_and_in_no_log(
    hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = tmp_path / "address"
    address.write_text(f"{hook.url}\n")
    hook.answers = [(404, {})]
    async with telling(Notify(url_file=address)) as its:
        its.tell(notice("refused"))
        its.tell(notice("taken"))
        await hook.was_told(text="taken")
    assert "a webhook is not told" in caplog.text
    assert "hooks/T0/secret" not in caplog.text + str([it.__dict__ for it in caplog.records])


async def test_over_tls_only_who_proves_to_be_it_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    other = Authority(tmp_path / "others")
    async with Hook(context=authority.server_context()) as hook:
        for ca_file in (None, other.ca_file):
            async with telling(Notify(url=hook.url, ca_file=ca_file), given_up_after=0.1) as its:
                its.tell(notice("to a stranger"))
                await its.has_counted("failed", 1)
        assert hook.told == []
        async with telling(Notify(url=hook.url, ca_file=authority.ca_file)) as its:
            its.tell(notice("to it"))
            await hook.was_told(text="to it")
