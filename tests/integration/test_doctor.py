"""`mirror doctor` says in plain words what keeps a pull from an endpoint."""

import asyncio
import datetime as dt
import email.utils
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mirror.config import parse
from mirror.doctor.examine import examine
from mirror.doctor.finding import Finding
from mirror.oci.digest import parse_digest
from mirror.oci.image import parse_image
from mirror.oci.reference import Repository, Tag
from tests.support.auth import BearerAuth
from tests.support.images import image, index, random_layer
from tests.support.mirror import document, upstream_at
from tests.support.process import free_port, run
from tests.support.proxy import ForwardProxy
from tests.support.tls import Authority
from tests.support.upstream import Cdn, ScriptedRegistry

BUSYBOX = image(random_layer(200_000, seed=60), random_layer(10, seed=61))


@pytest.fixture
def hub(upstream: ScriptedRegistry) -> ScriptedRegistry:
    upstream.add(index(BUSYBOX), "library/busybox", "latest")
    return upstream


async def found(url: str, tmp_path: Path, *images: str, **endpoint: Any) -> list[Finding]:
    settings = document({"docker.io": upstream_at(url, **endpoint)}, store_root=tmp_path / "store")
    settings["store"]["max_size"] = "1 GiB"
    config = await asyncio.to_thread(parse, settings)
    return [it async for it in examine(config, [parse_image(name) for name in images])]


def told(findings: list[Finding], level: str) -> str:
    return "\n".join(finding.text for finding in findings if finding.level == level)


async def test_an_endpoint_that_is_well_is_told_to_be(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    hub.cdn = Cdn(host="localhost")
    findings = await found(hub.url, tmp_path)
    assert {it.level for it in findings} == {"ok"}
    for words in (
        "is 127.0.0.1", "answers", "is open", "tells what docker.io/library/busybox:latest is",
        "leads to localhost for layers", "sends ranges", "MB/s",
    ):  # fmt: skip
        assert words in told(findings, "ok")
    assert "store" not in await asyncio.to_thread(os.listdir, tmp_path)


async def test_nobody_at_the_port_is_told(tmp_path: Path) -> None:
    findings = await found(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert "cannot be reached (Connection refused" in told(findings, "error")
    assert findings[-1].level == "error"  # what follows is not tried


async def test_a_name_that_is_not_found_is_told(tmp_path: Path) -> None:
    findings = await found("http://registry.invalid", tmp_path)
    assert "registry.invalid is not found" in told(findings, "error")


async def test_a_certificate_of_nobody_known_is_told_with_what_to_set(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    async with ScriptedRegistry(server_context=authority.server_context()) as registry:
        registry.add(BUSYBOX, "library/busybox", "latest")
        findings = await found(registry.url, tmp_path)
        assert "ca_file" in told(findings, "error")
        findings = await found(registry.url, tmp_path, ca_file=str(authority.ca_file))
        assert not told(findings, "error")
        assert "good for 1 days" in told(findings, "warning")


async def test_a_certificate_that_is_over_is_not_taken_for_one_of_nobody_known(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "tls")
    over = authority.server_context(life=dt.timedelta(hours=-1))
    async with ScriptedRegistry(server_context=over) as registry:
        findings = await found(registry.url, tmp_path, ca_file=str(authority.ca_file))
    assert "certificate has expired): it has to be renewed there" in told(findings, "error")


async def test_an_image_of_a_registry_that_is_not_configured_is_told(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    findings = await found(hub.url, tmp_path, "ghcr.io/org/app:1")
    assert told(findings, "error") == "ghcr.io/org/app:1 is of no upstream that is configured"


async def test_something_that_is_no_registry_is_told(hub: ScriptedRegistry, tmp_path: Path) -> None:
    hub.fault(kind="ping", status=404)
    assert "no registry" in told(await found(hub.url, tmp_path), "error")


async def test_a_wrong_password_is_told(hub: ScriptedRegistry, tmp_path: Path) -> None:
    hub.auth = BearerAuth(users={"me": "right"}, private={"library/busybox": {"me"}})
    hub.auth.realm = f"{hub.url}/token"
    password = tmp_path / "password"
    for secret, is_well in (("wrong", False), ("right", True)):
        await asyncio.to_thread(password.write_text, secret)
        findings = await found(hub.url, tmp_path, username="me", password_file=str(password))
        assert ("password_file" in told(findings, "error")) is not is_well


async def test_a_clock_that_is_wrong_and_ranges_that_are_ignored_are_told(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    early = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    hub.fault(kind="ping", headers={"Date": email.utils.format_datetime(early, usegmt=True)})
    hub.fault(kind="blob", ignore_range=True)
    findings = await found(hub.url, tmp_path)
    assert "clock" in told(findings, "warning")
    assert "ignores ranges" in told(findings, "warning")
    assert not told(findings, "error")


async def test_another_image_is_looked_at_where_one_is_named(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    hub.add(BUSYBOX, "org/app", "2")
    findings = await found(hub.url, tmp_path, "docker.io/org/app:2")
    assert "docker.io/org/app:2" in told(findings, "ok")
    findings = await found(hub.url, tmp_path, "docker.io/org/app:3")
    assert "is not there" in told(findings, "error")


async def test_each_image_that_is_named_is_looked_at(hub: ScriptedRegistry, tmp_path: Path) -> None:
    hub.add(BUSYBOX, "org/app", "2")
    names = ("org/other:1", "org/app:2", "library/busybox:latest")
    findings = await found(hub.url, tmp_path, *(f"docker.io/{name}" for name in names))
    assert "docker.io/org/other:1 is not there" in told(findings, "error")
    for name in names[1:]:
        assert f"tells what docker.io/{name} is" in told(findings, "ok")


@pytest.mark.parametrize(
    ("text", "namespace", "name", "reference"),
    [
        ("alpine", "docker.io", "library/alpine", Tag("latest")),
        ("org/app:1", "docker.io", "org/app", Tag("1")),
        ("ghcr.io/org/app", "ghcr.io", "org/app", Tag("latest")),
        ("localhost:5000/app:1", "localhost:5000", "app", Tag("1")),
        (f"quay.io/app@sha256:{'a' * 64}", "quay.io", "app", parse_digest(f"sha256:{'a' * 64}")),
    ],
)
def test_an_image_is_named_as_everywhere(
    text: str, namespace: str, name: str, reference: object
) -> None:
    assert parse_image(text) == (Repository(namespace, name), reference)


async def test_scripts_get_a_line_of_json_for_each_finding_and_a_status(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.toml"
    settings = document({"docker.io": upstream_at(hub.url)}, store_root=tmp_path / "store")
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    command = (sys.executable, "-m", "mirror", "doctor", "--json", "--config", file)
    well = await run(*command)
    assert {json.loads(line)["level"] for line in well.stdout.splitlines()} <= {"ok", "warning"}
    hub.fault(kind="ping", status=500)
    ill = await run(*command, check=False)
    assert ill.returncode == 1
    assert json.loads(ill.stdout.splitlines()[-1])["level"] == "error"


async def test_what_is_behind_a_proxy_is_asked_through_it(
    hub: ScriptedRegistry, tmp_path: Path
) -> None:
    async with ForwardProxy() as proxy:
        url = f"http://registry.test:{hub.port}"  # known to the proxy alone
        findings = await found(url, tmp_path, proxy=f"http://{proxy.host}")
        assert f"is reached through the proxy http://{proxy.host}" in told(findings, "ok")
        assert {it.level for it in findings} == {"ok"}
        proxy.refuses = {("registry.test", hub.port)}
        findings = await found(url, tmp_path, proxy=f"socks5://{proxy.host}")
        assert "the proxy" in told(findings, "error")
