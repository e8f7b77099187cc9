import pytest

from mirror.sources.registry.challenge import Challenge, parse_challenges
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
