import pytest

from mirror.config import parse
from mirror.front.workers.settings import settings_for_workers
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.pull.routing import Router


@pytest.fixture
def router() -> Router:
    endpoints = [{"url": "https://registry.test"}]
    return Router(
        settings_for_workers(
            parse(
                {
                    "upstream": {
                        "docker.io": {
                            "default": True,
                            "aliases": ["index.docker.io", "registry-1.docker.io"],
                            "endpoints": endpoints,
                        },
                        "ghcr.io": {
                            "hosts": ["ghcr.mirror.test"],
                            "access": "client",
                            "endpoints": endpoints,
                        },
                        "registry.test:5000": {"endpoints": endpoints},
                    }
                }
            )
        ).upstreams
    )


def _lead(router: Router, name: str, ns: str | None = None, host: str = "mirror:5000") -> str:
    repository = router.route(name, ns=ns, host=host).repository
    return f"{repository.namespace} {repository.name}"


@pytest.mark.parametrize(
    ("name", "ns", "host", "where"),
    [
        ("alpine", None, "mirror:5000", "docker.io library/alpine"),
        ("org/app", None, "mirror:5000", "docker.io org/app"),
        ("org/app", "ghcr.io", "mirror:5000", "ghcr.io org/app"),
        ("alpine", "ghcr.io", "mirror:5000", "ghcr.io alpine"),
        ("alpine", "registry-1.docker.io", "mirror:5000", "docker.io library/alpine"),
        ("ghcr.io/org/app", None, "mirror:5000", "ghcr.io org/app"),
        ("docker.io/alpine", None, "mirror:5000", "docker.io library/alpine"),
        ("index.docker.io/alpine", None, "mirror:5000", "docker.io library/alpine"),
        ("org/app", None, "ghcr.mirror.test", "ghcr.io org/app"),
        ("org/app", None, "GHCR.mirror.test:5000", "ghcr.io org/app"),
        ("docker.io/org/app", None, "ghcr.mirror.test", "docker.io org/app"),
        ("ghcr.io/org/app", "docker.io", "ghcr.mirror.test", "docker.io ghcr.io/org/app"),
        ("ghcr.io", None, "mirror:5000", "docker.io library/ghcr.io"),
        ("my.team/app", None, "ghcr.mirror.test", "ghcr.io my.team/app"),
        ("my.team/app", "ghcr.io", "mirror:5000", "ghcr.io my.team/app"),
        ("registry.test:5000/org/app", None, "mirror:5000", "registry.test:5000 org/app"),
    ],
)
def test_ns_comes_before_the_path_and_the_path_before_the_host(
    router: Router, name: str, ns: str | None, host: str, where: str
) -> None:
    assert _lead(router, name, ns, host) == where


@pytest.mark.parametrize("ns", ["evil.test", "", "ghcr.io.evil.test", "ghcr.io/", "127.0.0.1:80"])
def test_an_unknown_namespace_is_an_unknown_name_and_never_an_address(
    router: Router, ns: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        _lead(router, "org/app", ns)
    assert caught.value.code is ErrorCode.NAME_UNKNOWN


def test_without_a_default_an_unnamed_registry_is_unknown() -> None:
    config = parse({"upstream": {"ghcr.io": {"endpoints": [{"url": "https://ghcr.io"}]}}})
    with pytest.raises(RegistryError):
        _lead(Router(settings_for_workers(config).upstreams), "org/app")


def test_a_route_tells_whose_credentials_decide(router: Router) -> None:
    assert router.route("a/b", ns="ghcr.io", host="").access == "client"
    assert router.route("a/b", ns="docker.io", host="").access == "mirror"
