from hypothesis import example, given, strategies as st

from mirror.oci.challenge import Challenge, parse_challenges

_words = st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1)
_values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))
_challenges = st.builds(Challenge, _words, st.dictionaries(_words, _values, min_size=1))


def _written(challenge: Challenge) -> str:
    quoted = (
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in challenge.parameters.items()
    )
    return f"{challenge.scheme} {', '.join(quoted)}"


@given(st.lists(_challenges, max_size=4))
def test_challenges_are_read_as_they_were_written(challenges: list[Challenge]) -> None:
    headers = [_written(challenge) for challenge in challenges]
    assert parse_challenges(headers) == challenges
    assert parse_challenges([", ".join(headers)]) == challenges


@given(st.text())
@example('Bearer realm="' + "\\" * 5000)
@example("a=" * 5000)
@example("Bearer " + ' a="' * 5000)
def test_no_header_is_too_strange_to_be_read(header: str) -> None:
    for challenge in parse_challenges([header]):
        assert challenge.scheme
