import pytest
from yarl import URL

from mirror.sources.registry.credentials import Credential
from mirror.sources.registry.tokens import Access, TokenWanted, is_trusted


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://registry.cn-beijing.aliyuncs.com", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth"),
        ("https://a-registry.cn-beijing.cr.aliyuncs.com", "https://dockerauth-ee.cn-beijing.aliyuncs.com/auth"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://registry.digitalocean.com", "https://api.digitalocean.com/v2/registry/auth"),
        ("https://company.azurecr.io", "https://company.azurecr.io/oauth2/token"),
        ("https://us-docker.pkg.dev", "https://us-docker.pkg.dev/v2/token"),
        ("https://public.ecr.aws", "https://public.ecr.aws/token/"),
        ("https://registry.test:5000", "https://registry.test:5001/token"),
        ("http://registry.test", "http://registry.test/token"),
        ("http://registry.test", "https://registry.test/token"),
        ("https://127.0.0.1:5000", "https://127.0.0.1:5001/token"),
        ("https://registry.test", "https://sso.example/token"),
        ("https://registry.test", "https://other.example:8443/token"),
    ],
)  # fmt: skip
def test_credentials_go_to_the_registrys_own_token_server(registry: str, realm: str) -> None:
    hosts = ("sso.example", "other.example:8443")
    assert is_trusted(URL(realm), registry=URL(registry), token_hosts=hosts)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io.evil.example/token"),
        ("https://registry-1.docker.io", "https://evildocker.io/token"),
        ("https://rg.fr-par.scw.cloud", "https://api.scaleway.com/registry"),  # token_hosts says so
        ("https://registry-1.docker.io", "http://auth.docker.io/token"),
        ("https://registry-1.docker.io", "http://registry-1.docker.io/token"),
        ("https://registry.test", "http://sso.example/token"),
        ("https://one.github.io", "https://other.github.io/token"),
        ("https://registry.co.uk", "https://evil.co.uk/token"),
        ("https://10.0.0.1", "https://11.0.0.1/token"),
        ("http://127.0.0.1", "http://128.0.0.1/token"),
        ("http://localhost", "http://registry.localhost/token"),
        ("https://registry.test", "https://other.example/token"),
    ],
)
def test_credentials_go_nowhere_else(registry: str, realm: str) -> None:
    hosts = ("sso.example", "other.example:8443")
    assert not is_trusted(URL(realm), registry=URL(registry), token_hosts=hosts)


def test_a_token_is_asked_for_as_much_as_there_is_to_do_and_no_more() -> None:
    def scopes(access: Access) -> tuple[str, ...]:
        return access.scopes(lambda name: f"prefix/{name}")

    assert scopes(Access("app")) == ("repository:prefix/app:pull",)
    assert scopes(Access("app", is_push=True)) == ("repository:prefix/app:pull,push",)
    assert scopes(Access("app", is_push=True, source="base")) == (
        "repository:prefix/app:pull,push",
        "repository:prefix/base:pull",
    )


def test_several_scopes_are_asked_for_in_the_way_of_each_method() -> None:
    wanted = TokenWanted(URL("https://t.test/token?a=1"), "a:b:c", ("one", "two"))
    assert wanted.url.query.getall("scope") == ["one", "two"]
    assert wanted.url.query["service"] == "a:b:c"
    assert wanted.form(Credential("me", "secret"))["scope"] == "one two"
    nothing = TokenWanted(URL("https://t.test/token"), "", ())
    assert str(nothing.url) == "https://t.test/token"
    assert "scope" not in nothing.form(Credential("me", "secret"))
