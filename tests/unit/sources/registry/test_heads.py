from mirror.sources.registry.heads import Heads


def test_head_is_given_up_where_get_has_what_head_refuses() -> None:
    now = [0.0]
    heads = Heads(lambda: now[0])
    heads.refused("app", "1")
    assert heads.are_useful("app")  # it may be missing for both
    heads.answered_by_get("app", "1")
    assert not heads.are_useful("app")
    assert heads.are_useful("other")
    now[0] += 3600
    assert heads.are_useful("app")


def test_a_get_that_no_refused_head_came_before_tells_nothing_of_heads() -> None:
    heads = Heads(lambda: 0.0)
    heads.refused("app", "1")
    heads.answered_by_get("app", "2")
    assert heads.are_useful("app")
