"""Which repositories `allow` and `deny` mean."""

import pytest

from mirror.oci.repositories import Selection


@pytest.mark.parametrize(
    ("allow", "deny", "inside", "outside"),
    [
        ((), (), ["library/alpine", "a/b/c"], []),
        (("library/*",), (), ["library/alpine"], ["library/a/b", "org/library/alpine", "library"]),
        (("org/**",), (), ["org/a", "org/a/b"], ["organ/a", "org"]),
        (("org/app",), (), ["org/app"], ["org/app2", "org/ap", "xorg/app"]),
        (("a/v?",), (), ["a/v1"], ["a/v", "a/v12", "a/v/"]),
        (("**",), ("org/secret*",), ["org/app"], ["org/secret", "org/secrets"]),
        ((), ("**/internal",), ["a/b"], ["a/internal", "a/b/internal"]),
        (("a.b/c",), (), ["a.b/c"], ["axb/c"]),
    ],
)
def test_patterns_mean_what_shells_mean_by_them(
    allow: tuple[str, ...], deny: tuple[str, ...], inside: list[str], outside: list[str]
) -> None:
    selection = Selection(allow, deny)
    assert [name for name in (*inside, *outside) if name in selection] == inside
