import pytest

from mirror.oci.challenge import Challenge, parse_challenges, usable, with_realms
from tests.support.auth import ACR_SERVICE

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/nginx:pull"'
)


def test_docker_hubs_challenge_is_read() -> None:
    assert parse_challenges([HUB]) == [
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:library/nginx:pull",
            },
        )
    ]


def test_commas_and_colons_inside_quotes_belong_to_the_value() -> None:
    header = f'Bearer realm="https://a/auth",service="{ACR_SERVICE}",scope="repository:a:pull,push"'
    [challenge] = parse_challenges([header])
    assert challenge.parameters["service"] == ACR_SERVICE
    assert challenge.parameters["scope"] == "repository:a:pull,push"


@pytest.mark.parametrize(
    ("headers", "schemes"),
    [
        (['Basic realm="a", Bearer realm="b"'], ["basic", "bearer"]),
        (['Basic realm="a"', 'Bearer realm="b"'], ["basic", "bearer"]),
        (["Negotiate, Basic realm=a"], ["negotiate", "basic"]),
        ([", ,BASIC REALM=x , "], ["basic"]),
        ([""], []),
        (['"quoted" nonsense'], []),
        ([], []),
    ],
)
def test_several_challenges_are_told_apart(headers: list[str], schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(headers)] == schemes


@pytest.mark.parametrize(
    ("header", "realm"),
    [
        ("Bearer realm=bare", "bare"),
        ('Bearer REALM = "spaced"', "spaced"),
        (r'Bearer realm="with \"quotes\" and \\"', 'with "quotes" and \\'),
        ('Bearer realm=""', ""),
    ],
)
def test_a_parameter_is_read_as_the_grammar_says(header: str, realm: str) -> None:
    [challenge] = parse_challenges([header])
    assert challenge.parameters["realm"] == realm


def _elsewhere(realm: str) -> str:
    return f"https://mirror.example/{len(realm)}"


def test_another_address_takes_the_place_of_a_token_server_and_all_else_stays() -> None:
    assert with_realms(HUB, _elsewhere) == (
        'Bearer realm="https://mirror.example/28",service="registry.docker.io",'
        'scope="repository:library/nginx:pull"'
    )
    several = r'Basic realm="a \"b\" \\c", bearer Realm=https://x/t, service="y, z"'
    assert parse_challenges([with_realms(several, _elsewhere)]) == [
        Challenge("basic", {"realm": r'a "b" \c'}),
        Challenge("bearer", {"realm": "https://mirror.example/11", "service": "y, z"}),
    ]


@pytest.mark.parametrize("header", ['Basic realm="x"', "Negotiate", "Bearer", 'Bearer service="x"'])
def test_a_challenge_without_a_token_server_stays_as_it_is(header: str) -> None:
    assert with_realms(header, _elsewhere) == header


@pytest.mark.parametrize("piece", ["a ", "Mon, ", 'Bearer realm="x",', 'a="b",', '"', "="])
def test_nobody_means_challenges_without_end(piece: str) -> None:
    long = (piece * 60_000)[:60_000]
    assert parse_challenges([long] * 4) == []
    assert usable([long, HUB]) == [HUB]
    assert len(parse_challenges([piece * 400] * 9)) <= 8
    assert len(with_realms("Bearer realm=x, a " * 400, _elsewhere)) < 500
