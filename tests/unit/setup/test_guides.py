"""`mirror setup`: what it tells of a mirror's own settings, client by client."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.config import Config, parse
from mirror.setup.clients import CLIENTS, make_guide
from mirror.setup.guide import Guide
from tests.support.tls import Authority

HUB = {"docker.io": {"endpoints": [{"url": "https://registry-1.docker.io"}]}}
GHCR = {"ghcr.io": {"endpoints": [{"url": "https://ghcr.io"}]}}
AT = "mirror.example"


def guide(client: str, document: Mapping[str, Any], *, address: str | None = AT) -> Guide:
    return make_guide(client, parse(dict(document)), address=address)


def content(made: Guide, end: str) -> str:
    [found] = [file.content for file in made.files if file.path.endswith(end)]
    return found


def toml(made: Guide, end: str) -> dict[str, Any]:
    return tomllib.loads(content(made, end))


def daemon_json(made: Guide) -> Any:
    return json.loads(content(made, "/etc/docker/daemon.json"))


def upstreams(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """Docker Hub and GHCR, with more settings of theirs: `hub={...}`, `ghcr={...}`."""
    return {
        "upstream": {
            "docker.io": HUB["docker.io"] | dict(changes.get("hub", {})),
            "ghcr.io": GHCR["ghcr.io"] | dict(changes.get("ghcr", {})),
        }
    }


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    """A section `server` with a certificate for localhost and 127.0.0.1."""
    identity = Authority(tmp_path).issue("server")
    return {
        "tls_certificate_file": str(identity.certificate_file),
        "tls_private_key_file": str(identity.private_key_file),
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_every_line_that_is_printed_can_be_pasted_or_is_a_comment(client: str) -> None:
    made = guide(client, upstreams())
    pasted = {line for file in made.files for line in file.content.splitlines()}
    pasted |= {*made.then, *made.check}
    for line in str(made).splitlines():
        assert not line or line.startswith("#") or line in pasted
    for file in made.files:
        assert f"# ---- {file.path}\n" in str(made)
    assert all(len(line) <= 100 for line in str(made).splitlines() if line.startswith("# "))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("mirror.example", "http://mirror.example:5000"),
        ("mirror.example:80", "http://mirror.example"),
        ("MIRROR.example", "http://mirror.example:5000"),
        ("https://mirror.example", "https://mirror.example"),
        ("http://mirror.example:8080/", "http://mirror.example:8080"),
        ("10.0.0.1", "http://10.0.0.1:5000"),
        ("[2001:db8::1]", "http://[2001:db8::1]:5000"),
    ],
)
def test_the_address_is_what_somebody_says_and_the_rest_the_mirrors_own(
    address: str, url: str
) -> None:
    made = guide("containerd", {"upstream": HUB}, address=address)
    assert [*toml(made, "docker.io/hosts.toml")["host"]] == [url]
    assert "guess" not in str(made)


@pytest.mark.parametrize(
    "address",
    [
        "", "two words", "ftp://mirror.example", "mirror.example/path", "me@mirror.example",
        "mirror.example:99999", "mirror.example:0", "a;b", "$(id)", '"', "[::]", "::1:x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|say the name"):
        guide("docker", {"upstream": HUB}, address=address)


def test_an_unknown_client_is_told_which_are_known() -> None:
    with pytest.raises(ValueError, match="docker, containerd, podman"):
        make_guide("nerdctl", Config())


@pytest.mark.parametrize(("also", "name"), [("Skopeo", "podman"), ("dockerd", "docker")])
def test_a_client_goes_by_its_other_names_too(also: str, name: str) -> None:
    assert make_guide(also, Config(), address=AT) == make_guide(name, Config(), address=AT)


def test_an_address_that_nobody_has_said_is_a_guess_and_told_to_be_one() -> None:
    listens = {"server": {"listen": "10.0.0.7:5500"}}
    made = guide("podman", listens, address=None)
    assert made.address == "http://10.0.0.7:5500"
    assert "10.0.0.7:5500 is a guess (server.listen): --address says another" in made.notes[0]


def test_without_any_other_hint_the_address_is_guessed_from_the_machines_name() -> None:
    made = guide("podman", {}, address=None)
    assert "this machine's own name" in made.notes[0]
    assert made.address.endswith(":5000")


def test_a_mirror_that_only_its_own_machine_reaches_is_told_of() -> None:
    listens = {"server": {"listen": ["127.0.0.1:5000", "[::1]:5000"]}}
    assert any("only the mirror's own machine" in note for note in guide("k3s", listens).notes)
    assert not guide("k3s", listens, address="127.0.0.1").notes[1:]


def test_who_may_pull_is_told() -> None:
    networks = {"server": {"allowed_networks": ["10.0.0.0/8", "192.0.2.0/24"]}}
    [note] = [note for note in guide("docker", networks).notes if "may pull" in note]
    assert "10.0.0.0/8, 192.0.2.0/24" in note


# TLS


@pytest.mark.parametrize("client", CLIENTS)
def test_a_private_authority_is_printed_where_the_client_looks_for_it(
    client: str, tls: dict[str, Any], tmp_path: Path
) -> None:
    server = tls | {"client_ca_file": str(tmp_path / "ca.pem")}
    made = guide(client, {"server": server, "upstream": HUB}, address="localhost")
    assert made.address == "https://localhost:5000"
    authorities = [file for file in made.files if file.path.endswith("/ca.crt")]
    assert authorities
    assert {it.content for it in authorities} == {(tmp_path / "ca.pem").read_text()}
    assert len(made.provide) == 2 * len(authorities)
    assert {Path(path).parent for path, _ in made.provide} == {
        Path(it.path).parent for it in authorities
    }


def test_docker_29_finds_the_authority_under_the_registrys_name_and_older_under_the_mirrors(
    tls: dict[str, Any], tmp_path: Path
) -> None:
    server = tls | {"client_ca_file": str(tmp_path / "ca.pem")}
    made = guide("docker", {"server": server, "upstream": HUB}, address="localhost")
    assert [file.path for file in made.files if file.path.endswith("ca.crt")] == [
        "/etc/docker/certs.d/localhost:5000/ca.crt",
        "/etc/docker/certs.d/docker.io/ca.crt",
    ]


def test_an_authority_that_hosts_trust_already_is_named_and_needs_no_file(
    tls: dict[str, Any],
) -> None:
    made = guide("podman", {"server": tls, "upstream": HUB}, address="localhost")
    assert not [file for file in made.files if file.path.endswith("ca.crt")]
    assert any("issued by CN=Test authority" in note and "--ca" in note for note in made.notes)


def test_an_authority_may_be_named(tls: dict[str, Any], tmp_path: Path) -> None:
    config = parse({"server": tls, "upstream": HUB})
    made = make_guide("podman", config, address="localhost", ca_file=tmp_path / "ca.pem")
    assert content(made, "localhost:5000/ca.crt") == (tmp_path / "ca.pem").read_text()


@pytest.mark.parametrize("content", ["", "no certificate", "key"])
def test_an_authority_that_is_none_is_refused_and_never_shown(
    tls: dict[str, Any], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "wrong.pem"
    file.write_text(Path(tls["tls_private_key_file"]).read_text() if content == "key" else content)
    with pytest.raises(ValueError, match="holds no certificate in PEM"):
        make_guide("docker", parse({"server": tls}), address="localhost", ca_file=file)


def test_of_a_file_with_a_key_beside_the_authority_the_key_is_not_shown(
    tls: dict[str, Any], tmp_path: Path
) -> None:
    authority = (tmp_path / "ca.pem").read_text()
    file = tmp_path / "both.pem"
    file.write_text(Path(tls["tls_private_key_file"]).read_text() + authority)
    made = make_guide("podman", parse({"server": tls}), address="localhost", ca_file=file)
    assert content(made, "localhost:5000/ca.crt") == authority
    assert "PRIVATE" not in str(made)


def test_a_certificate_that_is_none_is_told(tls: dict[str, Any], tmp_path: Path) -> None:
    tls["tls_certificate_file"] = tls["tls_private_key_file"]
    with pytest.raises(ValueError, match="holds no certificate"):
        make_guide("podman", parse({"server": tls}), address="localhost")


@pytest.mark.parametrize(
    ("names", "own"),
    [(("a.example", "b.example"), "a.example"), (("*.example", "localhost"), None)],
)
def test_a_name_in_the_certificate_is_a_likely_address(
    tmp_path: Path, names: tuple[str, ...], own: str | None
) -> None:
    identity = Authority(tmp_path).issue("server", *names)
    server = {
        "tls_certificate_file": str(identity.certificate_file),
        "tls_private_key_file": str(identity.private_key_file),
        "listen": "10.0.0.7:5000",
    }
    hub = HUB["docker.io"] | {"hosts": ["b.example"]}
    made = guide("containerd", {"server": server, "upstream": {"docker.io": hub}}, address=None)
    assert made.address == f"https://{own or '10.0.0.7'}:5000"
    assert not own or not any("refuse" in note for note in made.notes)


def test_a_name_that_the_certificate_does_not_have_is_told(tls: dict[str, Any]) -> None:
    upstream = {"ghcr.io": GHCR["ghcr.io"] | {"access": "client", "hosts": ["ghcr.mirror.example"]}}
    made = guide("containerd", {"server": tls, "upstream": HUB | upstream})
    [note] = [note for note in made.notes if "refuse" in note]
    assert "not for ghcr.mirror.example, mirror.example" in note


def test_a_mirror_behind_a_proxy_that_ends_tls_needs_no_insecure_anything() -> None:
    made = guide("podman", upstreams(), address="https://mirror.example")
    tables = toml(made, "mirror.conf")["registry"]
    assert [it["mirror"] for it in tables] == [
        [{"location": "mirror.example/docker.io"}],
        [{"location": "mirror.example/ghcr.io"}],
    ]
    assert "insecure" not in content(
        guide("docker", upstreams(), address="https://m.example"), "daemon.json"
    )


# Docker


def test_docker_asks_the_default_for_docker_hub_and_others_by_the_mirrors_name() -> None:
    made = guide("docker", upstreams())
    assert daemon_json(made) == {
        "registry-mirrors": ["http://mirror.example:5000"],
        "insecure-registries": ["mirror.example:5000"],
    }
    assert any("docker pull mirror.example:5000/ghcr.io/..." in note for note in made.notes)
    assert toml(made, "/ghcr.io/hosts.toml")["server"] == "https://ghcr.io"


def test_docker_alone_on_the_mirrors_own_machine_needs_one_line() -> None:
    made = guide("docker", {"upstream": HUB}, address="127.0.0.1")
    assert daemon_json(made) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert len(made.files) == 1


def test_docker_is_told_of_no_mirror_where_docker_hub_is_not_the_default() -> None:
    made = guide("docker", upstreams(ghcr={"default": True}))
    assert "registry-mirrors" not in daemon_json(made)
    assert any("docker.io is not the default" in note for note in made.notes)
    own = {"hosts": ["hub.mirror.example"]}
    made = guide("docker", upstreams(hub=own, ghcr={"default": True}))
    assert daemon_json(made)["registry-mirrors"] == ["http://hub.mirror.example:5000"]


def test_docker_is_told_of_no_mirror_where_docker_hub_is_not_mirrored() -> None:
    made = guide("docker", {"upstream": GHCR})
    assert daemon_json(made) == {"insecure-registries": ["mirror.example:5000"]}
    assert any("does not have" in note for note in made.notes)


def test_docker_shows_its_docker_hub_login_only_at_a_name_of_the_mirrors_for_docker_hub() -> None:
    personal = {"access": "client"}
    made = guide("docker", upstreams(hub=personal))
    assert "registry-mirrors" not in daemon_json(made)
    assert sum("no address at which to log in" in note for note in made.notes) >= 1
    made = guide("docker", upstreams(hub=personal | {"hosts": ["hub.mirror.example"]}))
    assert daemon_json(made)["registry-mirrors"] == ["http://hub.mirror.example:5000"]
    assert not [line for line in made.then if "login" in line]


def test_docker_logs_in_at_the_name_that_a_private_registry_has_at_the_mirror() -> None:
    made = guide("docker", upstreams(ghcr={"access": "client", "hosts": ["mirror.example:5001"]}))
    assert "docker login mirror.example:5001" in made.then
    assert daemon_json(made)["insecure-registries"] == ["mirror.example:5001"]
    assert any("docker pull mirror.example:5001/..." in note for note in made.notes)


def test_docker_is_not_told_of_a_mirror_that_would_be_shown_docker_hubs_password(
    tmp_path: Path,
) -> None:
    made = guide("docker", _with_passwords(tmp_path))
    assert "registry-mirrors" not in daemon_json(made)
    assert any("no password but Docker Hub's" in note for note in made.notes)
    assert "docker login mirror.example:5000" in made.then
    header = toml(made, "/docker.io/hosts.toml")["host"]["http://mirror.example:5000"]["header"]
    assert header == {"Authorization": ["Basic IN_BASE64"]}


# The others


def test_containerd_has_a_file_for_each_registry_and_each_of_its_other_names() -> None:
    made = guide("containerd", upstreams(ghcr={"aliases": ["docker.pkg.example"]}))
    hosts = {"http://mirror.example:5000": {"capabilities": ["pull", "resolve"]}}
    for name, server in {
        "docker.io": "registry-1.docker.io", "ghcr.io": "ghcr.io",
        "docker.pkg.example": "docker.pkg.example",
    }.items():  # fmt: skip
        assert toml(made, f"/{name}/hosts.toml") == {"server": f"https://{server}", "host": hosts}
    assert len([it for it in made.files if it.path.endswith("hosts.toml")]) == 3


def test_a_registry_that_speaks_no_tls_is_turned_to_as_it_is() -> None:
    local = {"registry.local:5000": {"endpoints": [{"url": "http://registry.local:5000"}]}}
    made = guide("containerd", {"upstream": HUB | local})
    assert toml(made, "/registry.local:5000/hosts.toml")["server"] == "http://registry.local:5000"


def test_podman_leaves_out_what_it_cannot_name_and_says_so() -> None:
    local: dict[str, dict[str, Any]] = {
        "registry.local:5000": {"endpoints": [{"url": "http://registry.local:5000"}]}
    }
    made = guide("podman", {"upstream": HUB | local})
    assert [it["location"] for it in toml(made, "mirror.conf")["registry"]] == ["docker.io"]
    assert any("registry.local:5000 has a port" in note for note in made.notes)
    local["registry.local:5000"]["hosts"] = ["local.mirror.example"]
    made = guide("podman", {"upstream": HUB | local})
    assert toml(made, "mirror.conf")["registry"][1]["mirror"] == [
        {"location": "local.mirror.example:5000", "insecure": True}
    ]


@pytest.mark.parametrize("client", ["podman", "cri-o"])
def test_podman_and_cri_o_log_in_at_the_name_that_a_private_registry_has_at_the_mirror(
    client: str,
) -> None:
    own = {"access": "client", "hosts": ["ghcr.mirror.example"]}
    made = guide(client, upstreams(ghcr=own))
    [_, ghcr] = (
        toml(made, "mirror.conf")["registry"]
        if client == "podman"
        else toml(made, "registries.conf.d/50-mirror.conf")["registry"]
    )
    assert ghcr["mirror"] == [{"location": "ghcr.mirror.example:5000", "insecure": True}]
    assert any(line.endswith("ghcr.mirror.example:5000") for line in made.then)


def test_cri_o_has_the_nodes_credentials_in_a_file_that_its_configuration_names(
    tmp_path: Path,
) -> None:
    made = guide("cri-o", _with_passwords(tmp_path))
    auth = toml(made, "crio.conf.d/50-mirror.conf")["crio"]["image"]["global_auth_file"]
    login = f"podman login --tls-verify=false --authfile {auth} mirror.example:5000"
    assert login in made.then
    assert not [it for it in guide("cri-o", upstreams()).files if "crio" in it.path]


def test_buildkit_asks_each_registry_of_the_mirror_and_speaks_to_it_as_it_speaks() -> None:
    own = {"access": "client", "hosts": ["ghcr.mirror.example"]}
    assert toml(guide("buildkit", upstreams(ghcr=own)), "buildkitd.toml")["registry"] == {
        "docker.io": {"mirrors": ["mirror.example:5000"]},
        "ghcr.io": {"mirrors": ["ghcr.mirror.example:5000"]},
        "mirror.example:5000": {"http": True},
        "ghcr.mirror.example:5000": {"http": True},
    }


@pytest.mark.parametrize("client", ["k3s", "rke2"])
def test_k3s_and_rke2_have_a_file_of_their_own_grammar(
    client: str, tls: dict[str, Any], tmp_path: Path
) -> None:
    document = _with_passwords(tmp_path)
    document["server"] |= tls | {"client_ca_file": str(tmp_path / "ca.pem")}
    made = guide(client, document, address="localhost")
    certificates = f"/etc/rancher/{client}/mirror"
    # https://docs.k3s.io/installation/private-registry, "Registries Configuration File"
    assert yaml.safe_load(content(made, f"/etc/rancher/{client}/registries.yaml")) == {
        "mirrors": {
            "docker.io": {"endpoint": ["https://localhost:5000"]},
            "ghcr.io": {"endpoint": ["https://localhost:5000"]},
        },
        "configs": {
            "localhost:5000": {
                "tls": {
                    "ca_file": f"{certificates}/ca.crt",
                    "cert_file": f"{certificates}/client.cert",
                    "key_file": f"{certificates}/client.key",
                },
                "auth": {"username": "NAME", "password": "PASSWORD"},
            }
        },
    }


def _with_passwords(tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "htpasswd"
    file.touch()
    return upstreams() | {"server": {"htpasswd_file": str(file)}}


def test_it_is_said_at_which_name_users_log_in_to_push_and_how() -> None:
    hub = {"push": "client", "hosts": ["hub.example"], "default": True}
    config = parse({"upstream": {"docker.io": hub}})
    guide = make_guide("docker", config, address="mirror.example:5000")
    assert "docker login hub.example:5000" in guide.then
    assert any("docker push hub.example:5000/ORG/APP:TAG" in note for note in guide.notes)


def test_where_there_is_no_name_to_log_in_to_push_that_is_said() -> None:
    config = parse({"upstream": {"docker.io": {"push": "client"}}})
    guide = make_guide("docker", config, address="mirror.example:5000")
    assert any("Nothing is pushed to docker.io" in note for note in guide.notes)
    assert not any("docker push" in note for note in guide.notes)
