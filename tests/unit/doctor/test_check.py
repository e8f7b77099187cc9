"""`mirror check` opens what a configuration names, and says what will not do what was meant."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mirror.config import parse
from mirror.doctor.files import look_at_files
from mirror.doctor.finding import Finding
from mirror.doctor.settings import look_at_settings
from tests.support.tls import Authority

NOW = dt.datetime.now(dt.UTC)


def found(document: Mapping[str, Any], *, now: dt.datetime = NOW) -> list[Finding]:
    config = parse(dict(document))
    return [*look_at_settings(config), *look_at_files(config, now=now)]


def hub(**endpoint: Any) -> dict[str, Any]:
    return {"docker.io": {"endpoints": [{"url": "https://hub.example", **endpoint}]}}


@pytest.fixture
def store(tmp_path: Path) -> dict[str, Any]:
    return {"root": str(tmp_path / "store"), "max_size": "1 GiB", "min_free": "0 B"}


def test_nothing_is_said_of_what_is_well(store: dict[str, Any], tmp_path: Path) -> None:
    identity = Authority(tmp_path).issue("server")
    (tmp_path / "password").write_text("secret\n")
    server = {
        "tls_certificate_file": str(identity.certificate_file),
        "tls_private_key_file": str(identity.private_key_file),
        "client_ca_file": str(tmp_path / "ca.pem"),
    }
    upstream = hub(username="me", password_file=str(tmp_path / "password"))
    # A day before and after now: a life of two days, of which one is left.
    assert found({"server": server, "store": store, "upstream": upstream}) == []


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(0.8, "warning", "ends at"), (1.5, "error", "is over since"), (-1.5, "error", "begins at")],
)
def test_a_certificates_life_is_looked_at(
    store: dict[str, Any], tmp_path: Path, days: float, level: str, words: str
) -> None:
    identity = Authority(tmp_path).issue("server")
    server = {
        "tls_certificate_file": str(identity.certificate_file),
        "tls_private_key_file": str(identity.private_key_file),
    }
    [finding] = found({"server": server, "store": store}, now=NOW + dt.timedelta(days=days))
    assert (finding.level, finding.where) == (level, "server.tls_certificate_file")
    assert words in finding.text


def test_a_key_of_another_certificate_is_told(store: dict[str, Any], tmp_path: Path) -> None:
    one, other = (Authority(tmp_path / name).issue("server") for name in ("one", "other"))
    server = {
        "tls_certificate_file": str(one.certificate_file),
        "tls_private_key_file": str(other.private_key_file),
    }
    [finding] = found({"server": server, "store": store})
    assert (finding.level, finding.where) == ("error", "server.tls_private_key_file")
    assert "not the key of" in finding.text


@pytest.mark.parametrize("section", ["server", "endpoint"])
def test_an_authority_that_is_none_is_told(
    store: dict[str, Any], tmp_path: Path, section: str
) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("not a certificate")
    identity = Authority(tmp_path).issue("server")
    server = {
        "tls_certificate_file": str(identity.certificate_file),
        "tls_private_key_file": str(identity.private_key_file),
    }
    document: dict[str, Any] = {"store": store, "server": server}
    if section == "server":
        server["client_ca_file"] = str(nothing)
    else:
        document["upstream"] = hub(ca_file=str(nothing))
    [finding] = found(document)
    assert finding.level == "error"
    assert "no certificate" in finding.text


@pytest.mark.parametrize(
    ("content", "level"), [("", "error"), (" \n", "error"), ("one\ntwo\n", "warning")]
)
def test_a_password_is_one_line(
    store: dict[str, Any], tmp_path: Path, content: str, level: str
) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    [finding] = found({"store": store, "upstream": hub(username="me", password_file=str(file))})
    assert (finding.level, finding.where) == (
        level,
        'upstream."docker.io".endpoints[0].password_file',
    )


def test_the_operators_token_and_a_proxys_password_are_one_line_too(
    store: dict[str, Any], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    through = {"proxy": "http://proxy.example:3128", "proxy_username": "me"}
    document = {
        "store": store,
        "admin": {"token_file": str(empty)},
        "upstream": hub(**through, proxy_password_file=str(empty)),
    }
    assert [(it.level, it.where) for it in found(document)] == [
        ("error", "admin.token_file"),
        ("error", 'upstream."docker.io".endpoints[0].proxy_password_file'),
    ]


def test_a_credential_helper_that_is_not_installed_is_told(
    store: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    document = {"store": store, "upstream": hub(credential_helper="ecr-login")}
    [finding] = found(document)
    where = 'upstream."docker.io".endpoints[0].credential_helper'
    assert (finding.level, finding.where) == ("warning", where)
    assert "docker-credential-ecr-login" in finding.text
    helper = tmp_path / "docker-credential-ecr-login"
    helper.touch(mode=0o755)
    assert found(document) == []


def test_an_htpasswd_that_is_none_is_told(store: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text("me:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=\n")
    findings = found({"store": store, "server": {"htpasswd_file": str(file)}})
    assert ("error", "server.htpasswd_file") in {(it.level, it.where) for it in findings}
    assert any("in the clear" in it.text for it in findings)  # and there is no TLS


def test_who_gets_nothing_is_told(store: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    endpoint = {"url": "http://ghcr.example", "username": "me", "password_file": str(file)}
    upstream = {"ghcr.io": {"endpoints": [endpoint]}}
    findings = found({"store": store, "upstream": upstream})
    assert [it.where for it in findings] == ["upstream", 'upstream."ghcr.io".endpoints[0].url']
    assert all(it.level == "warning" for it in findings)


@pytest.mark.parametrize(
    ("settings", "setting", "words"),
    [
        ({}, "hosts", "docker, podman and skopeo"),
        ({"hosts": ["hub.mirror.example"]}, "access", "in the clear"),
        ({"hosts": ["hub.mirror.example"], "relay_tokens": "http"}, "access", "in the clear"),
        ({"hosts": ["hub.mirror.example"], "relay_tokens": "https"}, None, None),
    ],
)
def test_clients_that_cannot_log_in_or_only_in_the_clear_are_told(
    store: dict[str, Any], settings: dict[str, Any], setting: str | None, words: str | None
) -> None:
    upstream = {"docker.io": hub()["docker.io"] | {"access": "client"} | settings}
    findings = found({"store": store, "upstream": upstream})
    told = [it for it in findings if setting and it.where == f'upstream."docker.io".{setting}']
    assert findings == told
    assert [words in it.text for it in told if words] == [True] * len(findings)
    assert len(findings) == (0 if setting is None else 1)


def test_limits_that_cannot_hold_are_told(tmp_path: Path) -> None:
    too_much = {"root": str(tmp_path), "max_size": "900 TiB"}
    [finding] = found({"store": too_much})
    assert (finding.level, finding.where) == ("warning", "store.max_size")
    [finding] = found({"store": {"root": str(tmp_path), "max_size": "9 MiB"}})
    assert (finding.level, finding.where) == ("warning", "store.max_size")
    assert "some 10 MiB" in finding.text
    [finding] = found({"store": {**too_much, "min_free": "900 TiB"}})
    assert (finding.level, finding.where) == ("error", "store.min_free")


def test_databases_that_were_set_aside_are_told(store: dict[str, Any], tmp_path: Path) -> None:
    root = Path(store["root"])
    root.mkdir()
    (root / "index.sqlite3").write_bytes(bytes(2**20))
    assert found({"store": store}) == []
    (root / "index.sqlite3.old").write_bytes(bytes(2**20))
    (root / "history.sqlite3.damaged").write_bytes(bytes(2**20))
    [finding] = found({"store": store})
    assert (finding.level, finding.where) == ("warning", "store.root")
    assert finding.text.startswith("history.sqlite3.damaged, index.sqlite3.old (2.0 MiB) was")


def test_a_root_that_is_no_directory_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "below"):
        [finding] = found({"store": {"root": str(root)}})
        assert (finding.level, finding.where) == ("error", "store.root")


def test_operators_that_nobody_could_be_are_told(store: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "operators"
    for content, words in (
        ("anna:plain\n", "not name:bcrypt-hash"),
        ("# nobody\n", "names nobody"),
    ):
        file.write_text(content)
        told = found({"store": store, "admin": {"htpasswd_file": str(file)}})
        assert [it.where for it in told if words in it.text] == ["admin.htpasswd_file"]


def test_the_files_of_webhooks_are_opened(store: dict[str, Any], tmp_path: Path) -> None:
    for name in ("address", "secret", "ca"):
        (tmp_path / name).write_text("two\nlines\n")
    hook = {"url_file": str(tmp_path / "address"), "header_file": str(tmp_path / "secret")}
    hook["ca_file"] = str(tmp_path / "ca")
    told = {it.where: it.text for it in found({"store": store, "notify": [hook]})}
    hooks = {where: text for where, text in told.items() if where.startswith("notify")}
    assert hooks.keys() == {"notify[0].url_file", "notify[0].header_file", "notify[0].ca_file"}
    assert "two" not in "".join(hooks.values())
