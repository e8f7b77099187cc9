"""What operators see on the admin port: figures that are true, and no secrets."""

import base64
import logging
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import StartMirror
from tests.support.auth import BasicAuth, BearerAuth
from tests.support.client import get, raw_request
from tests.support.clock import FakeClock
from tests.support.images import Image, digest_of, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import Cdn, RateLimit, ScriptedRegistry

SIZE = 600_000
SECRET = "hunter2-is-secret"  # noqa: S105 - that is what is looked for


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


async def series(mirror: InnerMirror) -> dict[str, set[tuple[str, ...]]]:
    """The label values of every metric."""
    answer = await get(f"{mirror.admin_url}/metrics")
    found = dict[str, set[tuple[str, ...]]]()
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).add(tuple(sample.labels.values()))
    return found


async def test_what_is_free_and_what_waits_is_told_by_a_mirror_that_runs(
    start_mirror: StartMirror,
) -> None:
    told = await series(await start_mirror())
    wanted = {"mirror_store_free_bytes", "mirror_store_min_free_bytes", "mirror_fills_waiting"}
    assert wanted <= told.keys()


async def test_the_admin_port_tells_that_the_process_lives_and_can_serve(
    start_mirror: StartMirror,
) -> None:
    mirror = await start_mirror()
    for path, body in (("healthz", b"ok\n"), ("readyz", b"ready\n")):
        answer = await get(f"{mirror.admin_url}/{path}")
        assert (answer.status, answer.body) == (200, body)
    exposition = await get(f"{mirror.admin_url}/metrics")
    assert exposition.headers["Content-Type"].startswith("text/plain; version=")


async def test_clients_cannot_reach_the_admin_port_by_the_other(start_mirror: StartMirror) -> None:
    mirror = await start_mirror()
    for path in ("/metrics", "/healthz", "/readyz", "/v2/../metrics"):
        answer = await mirror.client.get(path)
        assert answer.status == 404
        assert b"mirror_requests" not in answer.body


async def test_a_pull_counts_what_it_cost_and_what_it_served(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    layer = app.layers[0]
    await mirror.client.manifest("org/app", "1")
    for _ in range(3):
        await mirror.client.blob("org/app", layer)
        await mirror.until_metric("mirror_fills_active", 0)
    metric = mirror.metric
    hub = {"upstream": "docker.io"}
    endpoint = hub | {"endpoint": upstream.host}
    assert (
        await metric("mirror_requests_total", **hub, kind="blob", method="GET", status="200") == 3
    )
    assert await metric("mirror_lookups_total", **hub, kind="tag", result="miss") == 1
    assert await metric("mirror_lookups_total", **hub, kind="blob", result="miss") == 1
    assert await metric("mirror_lookups_total", **hub, kind="blob", result="hit") == 2
    assert await metric("mirror_served_bytes_total", **hub) == len(app.manifest) + 3 * SIZE
    assert await metric("mirror_served_bytes_total", **hub, result="hit") == 2 * SIZE
    assert await metric("mirror_upstream_bytes_total", **endpoint) == len(app.manifest) + SIZE
    assert await metric("mirror_upstream_requests_total", **endpoint, status="200") == 2
    assert await metric("mirror_upstream_seconds_count", **endpoint, kind="blob") == 1
    assert await metric("mirror_upstream_up", **endpoint) == 1
    assert await metric("mirror_fills_total", **hub, outcome="committed") == 1
    assert await metric("mirror_fill_readers") == 0
    assert await metric("mirror_store_blobs") == 2
    assert await metric("mirror_store_bytes") == len(app.manifest) + SIZE
    assert await metric("mirror_store_limit_bytes") == 100 * 2**30
    assert await metric("mirror_request_seconds_count", kind="blob", result="hit") == 2


async def test_listings_count_what_they_serve(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/org/app/tags/list")
    assert await mirror.metric("mirror_served_bytes_total") == len(answer.body)
    assert await mirror.metric("mirror_lookups_total", kind="tags", result="miss") == 1


async def test_a_part_of_a_blob_counts_as_much_as_was_sent(
    start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    target = f"/v2/org/app/blobs/{app.layers[0]}"
    await mirror.client.get(target, headers={"Range": "bytes=10-29"})
    await mirror.client.head(target)
    await mirror.client.get(target, headers={"If-None-Match": "*"})
    assert await mirror.metric("mirror_served_bytes_total") == 20


async def test_upstreams_quota_is_shown(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    upstream.rate_limit = RateLimit(limit=100, remaining=50)
    mirror = await start_mirror()
    await mirror.client.manifest("org/app", "1")
    assert await mirror.metric("mirror_upstream_ratelimit_limit") == 100
    assert await mirror.metric("mirror_upstream_ratelimit_remaining") == 49


async def test_a_request_can_never_mint_a_label(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    before = await series(mirror)
    for target in (
        "/v2/label-1/manifests/label-2",
        "/v2/label-3/x/manifests/1?ns=label-4",
        f"/v2/label-5/blobs/{digest_of(b'label')}",
        "/v2/label-6/tags/list",
        "/label-7",
        "/v2/label-8/manifests/_%00",
    ):
        for method in ("GET", "HEAD", "PUT"):
            headers = {"Host": "label-9", "User-Agent": "label-10"}
            async with mirror.client.open(target, method=method, headers=headers):
                pass
    after = await series(mirror)
    assert before.keys() <= after.keys()
    values = {value for labels in after.values() for label in labels for value in label}
    assert not [value for value in values if "label" in value]


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_no_secret_reaches_log_or_metrics(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    app: Image,
    tmp_path: Path,
    clock: FakeClock,
    *,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """Neither the password nor a token nor a signed address, on a pull, a denial or an outage."""
    caplog.set_level(logging.DEBUG, "mirror")
    users = {"anna": SECRET}
    bearer = BearerAuth(users=users, realm=f"{upstream.url}/token", private={"org/app": {"anna"}})
    upstream.auth = BasicAuth(users=users) if kind == "basic" else bearer
    upstream.cdn = Cdn(signature="signature=of-the-link")
    password = tmp_path / "password"
    password.write_text(SECRET, encoding="utf-8")
    settings = upstream_at(upstream.url, username="anna", password_file=str(password))
    mirror = await start_mirror({"docker.io": settings}, fill={"attempts": 1})
    assert (await mirror.client.manifest("org/app", "1")).status == 200
    assert (await mirror.client.blob("org/app", app.layers[0])).status == 200
    assert (await mirror.client.blob("org/app", app.config)).status == 200
    users["anna"] = "changed"
    bearer.revoke()
    clock.advance(3600)
    assert (await mirror.client.manifest("org/app", "1")).status == 403
    users["anna"] = SECRET
    upstream.fault(kind="cdn", drop=True)
    other = upstream.add_blob(random_layer(SIZE, seed=2).blob, "org/app")
    assert (await mirror.client.blob("org/app", other)).status == 502
    exposition = (await get(f"{mirror.admin_url}/metrics")).body.decode()
    told = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "GET /v2/org/app/manifests/1" in told
    for secret in (
        SECRET,
        base64.b64encode(f"anna:{SECRET}".encode()).decode(),
        "token-1-anna",
        "of-the-link",
    ):
        assert secret not in exposition
        assert secret not in told


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:5001", 200),
        ("[::1]:5001", 200),
        ("localhost", 200),
        ("mirror:5001", 200),
        ("metrics.example:5001", 200),
        ("METRICS.example.", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example:5001", 421),
    ],
)
async def test_a_web_page_cannot_read_metrics_by_a_name_of_its_own(
    start_mirror: StartMirror, host: str, status: int
) -> None:
    mirror = await start_mirror(server={"admin_hosts": ["metrics.example"]})
    address, _, port = mirror.admin_host.partition(":")
    request = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    answer = await raw_request(address, int(port), request)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b"mirror_requests" in answer) == (status == 200)
    assert (b"server.admin_hosts" in answer) == (status == 421)


async def test_a_mirror_that_runs_tells_of_its_disk_and_of_downloads_that_wait(
    start_mirror: StartMirror,
) -> None:
    told = await series(await start_mirror())
    for name in ("mirror_store_free_bytes", "mirror_store_min_free_bytes", "mirror_fills_waiting"):
        assert told[name] == {()}, name
