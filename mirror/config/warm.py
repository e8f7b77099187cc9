"""`[[warm]]`: images that are fetched by the clock, before anybody asks."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, field_validator

from mirror.config.cron import Times, parse_times
from mirror.config.pins import require_platforms, why_not_fetchable
from mirror.config.upstreams import Upstream
from mirror.config.values import Count, Section, Size, not_zero
from mirror.oci.image import Images, parse_images

At = Annotated[Times, BeforeValidator(parse_times), PlainSerializer(lambda its: its.text)]


class Warm(Section, arbitrary_types_allowed=True):
    """Images of a repository, and when they are fetched; `max_bandwidth` is per second.

    Of the pulls that upstream allows, `leave_quota` are left for people.
    """

    image: str
    at: At
    platforms: tuple[str, ...] = ()
    max_bandwidth: Annotated[Size, AfterValidator(not_zero)] | None = None
    leave_quota: Count | None = None

    @field_validator("image")
    @classmethod
    def _image_is_one(cls, image: str) -> str:
        return str(parse_images(image))

    @field_validator("platforms")
    @classmethod
    def _platforms_are_some(cls, platforms: tuple[str, ...]) -> tuple[str, ...]:
        return require_platforms(platforms)

    @property
    def images(self) -> Images:
        """Which images that is."""
        return parse_images(self.image)


def require_warmable(warms: Sequence[Warm], upstreams: Mapping[str, Upstream]) -> None:
    """See that each can be fetched here. Raises ValueError."""
    names = [warm.image for warm in warms]
    for warm in warms:
        if names.count(warm.image) > 1:
            raise ValueError(f"{warm.image} is warmed twice; at may name several times")
        why = why_not_fetchable(warm.images.repository, upstreams)
        if why is not None:
            raise ValueError(f"{warm.image} cannot be warmed: {why}")
