"""`[[pin]]`: images that are here before anybody asks, and stay."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError, field_validator

from mirror.config.units import format_duration
from mirror.config.upstreams import Upstream, aliases_of
from mirror.config.values import Section, Timeout
from mirror.oci.descriptor import Platform, parse_platform
from mirror.oci.image import full_name, parse_image
from mirror.oci.reference import Reference, Repository


class Pin(Section):
    """An image that is fetched before anybody asks, follows its tag, and is never evicted."""

    image: str
    platforms: tuple[str, ...] = ()
    refresh: Timeout = 3600.0

    @field_validator("image")
    @classmethod
    def _image_is_one(cls, image: str) -> str:
        return full_name(image)

    @field_validator("platforms")
    @classmethod
    def _platforms_are_some(cls, platforms: tuple[str, ...]) -> tuple[str, ...]:
        return require_platforms(platforms)

    @property
    def name(self) -> str:
        """The image, whole: with its registry, and its tag or digest."""
        return self.image

    @property
    def repository(self) -> Repository:
        """Where it is."""
        return parse_image(self.image)[0]

    @property
    def reference(self) -> Reference:
        """Its tag or digest."""
        return parse_image(self.image)[1]

    @property
    def wanted(self) -> list[Platform]:
        """The platforms; none: all of them."""
        return parse_platforms(self.platforms)


def make_pin(
    image: str,
    platforms: Sequence[str],
    refresh: float | None,
    upstreams: Mapping[str, Upstream],
) -> Pin:
    """A pin that somebody has asked for; `refresh` in seconds.

    Raises:
        ValueError: It makes no sense, or cannot be fetched here; in words for an operator.
    """
    name = full_name(image, aliases_of(upstreams))
    asked: dict[str, object] = {"image": name, "platforms": tuple(platforms)}
    if refresh is not None:
        asked["refresh"] = format_duration(refresh)
    try:
        pin = Pin.model_validate(asked)
    except ValidationError as error:
        found = (it["msg"].removeprefix("Value error, ") for it in error.errors())
        raise ValueError("; ".join(found)) from None
    require_fetchable([pin], upstreams)
    return pin


def require_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """See that these are platforms. Raises ValueError."""
    for platform in platforms:
        parse_platform(platform)
    return tuple(platforms)


def parse_platforms(platforms: Sequence[str]) -> list[Platform]:
    """What such texts mean."""
    return [parse_platform(platform) for platform in platforms]


def why_not_fetchable(repository: Repository, upstreams: Mapping[str, Upstream]) -> str | None:
    """Why the mirror cannot fetch from there on its own; None: it can."""
    namespace, name = repository.namespace, repository.name
    upstream = upstreams.get(namespace)
    if upstream is None:
        return f'there is no [upstream."{namespace}"]: images are named by their upstream\'s name'
    if upstream.access == "client":
        return f'access = "client" of {namespace} leaves the mirror without credentials of its own'
    if name not in upstream.served:
        return f"by allow or deny of {namespace} {name} is not served"
    return None


def require_fetchable(pins: Sequence[Pin], upstreams: Mapping[str, Upstream]) -> None:
    """See that each is one image, of an upstream that serves it. Raises ValueError."""
    images = [pin.image for pin in pins]
    for pin in pins:
        if images.count(pin.image) > 1:
            raise ValueError(f"{pin.image} is pinned twice; name all platforms in one place")
        why = why_not_fetchable(pin.repository, upstreams)
        if why is not None:
            raise ValueError(f"{pin.image} cannot be pinned: {why}")
