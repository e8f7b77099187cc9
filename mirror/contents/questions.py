"""What can be asked of what is in the cache: each question is the parameters of a request."""

from typing import Annotated

from msgspec import Meta, Struct

_Name = Annotated[str, Meta(min_length=1, max_length=600)]
_Text = Annotated[str, Meta(max_length=600)]
_Path = Annotated[str, Meta(max_length=4096)]
_Limit = Annotated[int, Meta(ge=1, le=1000)]


class ListRepositories(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Repositories of which anything is here, by name: those that have `search` in it."""

    search: _Text = ""
    after: _Text = ""
    limit: _Limit = 100


class ListImages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The images of a repository: those that tags mean, and then those that none does."""

    repository: _Name
    after: _Text = ""
    limit: _Limit = 100


class GetImage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image, of one platform ("linux/arm64"; else the one that is here).

    `having`: an image that a host has already; its layers need not be transferred.
    """

    image: _Name
    platform: _Text = ""
    having: _Text = ""


class ListBlobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is here, by digest."""

    after: _Text = ""
    limit: _Limit = 100


class ListLeaving(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would be evicted next, in order."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class ListFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in a directory of an image, or a file with all of its versions.

    `recursive`: everything below it. `removed`: with what layers have removed.
    """

    image: _Name
    platform: _Text = ""
    path: _Path = "/"
    recursive: bool = False
    removed: bool = True
    after: _Path = ""
    limit: _Limit = 500


class ListLayerFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one layer holds, whiteouts as what they remove."""

    digest: _Name
    after: _Path = ""
    limit: _Limit = 500


class DiffImages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is another way in `other` than in `image`."""

    image: _Name
    other: _Name
    platform: _Text = ""
    path: _Path = "/"
    after: _Path = ""
    limit: _Limit = 500


class CompareImage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every endpoint says of an image.

    `pull`: where HEAD does not tell enough, GET may be used; registries count that as pulls.
    """

    image: _Name
    platform: _Text = ""
    pull: bool = False
