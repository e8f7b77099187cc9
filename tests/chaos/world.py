"""What the registries hold, and held at which time."""

import time
from dataclasses import dataclass
from random import Random

from tests.support.images import Image, Layer, image, index, random_layer
from tests.support.upstream import ScriptedRegistry

_REPOSITORIES = ("library/a", "org/b", "org/c", "team/deep/d")
_TAGS = ("1", "2", "latest")
_SIZES = (0, 10, 3_000, 60_000, 200_000, 900_000, 2_000_000, 3_500_000, 5_000_000, 7_000_000)
_SIZES_OF_NEW = (100, 50_000, 1_000_000, 4_000_000)
_COMMON = [random_layer(size, seed=seed) for seed, size in enumerate(_SIZES)]


@dataclass(frozen=True, slots=True)
class Place:
    """A tag, as clients of the mirror name it."""

    prefix: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """Its repository's."""
        return self.prefix + self.repository


class World:
    """`registries` by the prefix that clients name them with; `dice` is everybody's."""

    def __init__(self, dice: Random, registries: dict[str, ScriptedRegistry]) -> None:
        self.images: dict[str, Image] = {}
        self.dice = dice
        self._registries = registries
        self._held: dict[Place, list[tuple[float, str]]] = {}
        self._seed = len(_COMMON)
        for prefix in registries:
            for repository in _REPOSITORIES:
                for tag in _TAGS:
                    self.move(Place(prefix, repository, tag))

    def find_place(self) -> Place:
        """Any tag."""
        return self.dice.choice([*self._held])

    def move(self, place: Place) -> None:
        """The tag means another image from now on."""
        made = self.make_image()
        self._registries[place.prefix].add(made, place.repository, place.tag)
        self._held.setdefault(place, []).append((time.monotonic(), made.digest))
        for one in (made, *made.members):
            self.images[one.digest] = one

    def digest_at(self, place: Place) -> str:
        """What the tag means."""
        return self._held[place][-1][1]

    def replaced_at(self, place: Place, digest: str) -> float | None:
        """When the tag came to mean something else than that; None: it has not.

        Raises:
            LookupError: It has never meant that.
        """
        history = self._held[place]
        last = max((n for n, (_, held) in enumerate(history) if held == digest), default=None)
        if last is None:
            raise LookupError(digest)
        return history[last + 1][0] if last + 1 < len(history) else None

    def make_image(self) -> Image:
        """One that is like no other, and shares layers with many."""
        layers = [*self.dice.sample(_COMMON, self.dice.randint(1, 3)), self._new_layer(37)]
        if self.dice.random() < 0.5:
            layers.append(self._new_layer(self.dice.choice(_SIZES_OF_NEW)))
        is_dockers = self.dice.random() < 0.5
        if self.dice.random() < 0.2:
            members = image(*layers), image(*layers[:1], architecture="arm64")
            return index(*members, docker=is_dockers)
        return image(*layers, docker=is_dockers)

    def _new_layer(self, size: int) -> Layer:
        self._seed += 1
        return random_layer(size, seed=self._seed)
