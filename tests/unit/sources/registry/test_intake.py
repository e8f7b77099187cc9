from collections.abc import AsyncIterator

from mirror.sources.registry.intake import SMALLEST, Cutter, Intake

MIB = 2**20
TOO_LARGE = [{"code": "X", "message": "the request body is too large"}]


def test_everything_is_taken_until_something_is_refused() -> None:
    intake = Intake()
    assert intake.most(is_part=False) is intake.most(is_part=True) is None
    assert not intake.wants_length


def test_what_is_too_large_is_halved_until_it_gets_through() -> None:
    intake = Intake()
    assert intake.refused(413, 1000 * MIB, [], has_length=True)
    assert intake.most(is_part=False) == 64 * MIB
    while (most := intake.most(is_part=True) or 0) > SMALLEST:
        assert intake.refused(413, most, [], has_length=True)
    assert not intake.refused(413, most, [], has_length=True)


def test_a_part_that_is_too_large_says_nothing_of_streams() -> None:
    intake = Intake()
    assert intake.refused(416, 10 * MIB, TOO_LARGE, has_length=True)
    assert intake.most(is_part=True) == 4 * MIB
    assert intake.most(is_part=False) is None


def test_a_part_that_is_elsewhere_is_no_matter_of_its_size() -> None:
    intake = Intake()
    assert not intake.refused(416, 10 * MIB, [{"message": "range invalid"}], has_length=True)
    assert not intake.refused(400, 10 * MIB, [{"message": None}], has_length=True)
    assert not intake.refused(416, 3 * MIB, TOO_LARGE, has_length=True)
    assert intake.most(is_part=True) is None


def test_who_wants_a_length_is_told_one() -> None:
    intake = Intake()
    assert not intake.refused(411, MIB, [], has_length=True)
    assert intake.refused(411, MIB, [], has_length=False)
    assert intake.wants_length


def test_no_part_is_smaller_than_a_registry_wants() -> None:
    intake = Intake()
    intake.refused(416, 10 * MIB, TOO_LARGE, has_length=True)
    assert intake.most(is_part=True, least=5 * MIB) == 5 * MIB


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size


async def test_content_is_cut_where_the_taste_is_and_nothing_is_lost() -> None:
    content = Cutter(chunks(5, 0, 7, 1))
    parts = [
        b"".join([it async for it in content.part(most) if isinstance(it, bytes)])
        for most in (3, 6, None)
    ]
    assert parts == [b"\0\0\0", b"\0\0\2\2\2\2", b"\2\2\2\3"]
    assert not await content.has_more()


async def test_what_is_gathered_fits_into_memory_whatever_a_registry_wants() -> None:
    assert await Cutter(chunks(5, 7)).gathered(6, least=0) == b"\0" * 5 + b"\1"
    assert await Cutter(chunks(5, 7)).gathered(6, least=8) == b"\0" * 5 + b"\1" * 3
    endless = Cutter(chunks(*[MIB] * 40))
    assert len(await endless.gathered(None, least=2**62)) == 32 * MIB
