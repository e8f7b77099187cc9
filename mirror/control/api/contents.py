"""What the API can be asked of the cache's contents."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from mirror.contents import models, questions
from mirror.contents.compare import Comparing
from mirror.contents.contents import Contents
from mirror.contents.manifests import NotHere
from mirror.control.api.operations import Act, Operation
from mirror.control.problems import Refusal
from mirror.oci.errors import StoreError

_MAY_REFUSE = (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)


class Asking(NamedTuple):
    """How a question is asked, of whom, and what is answered."""

    name: str
    path: str
    summary: str
    question: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    method: str  # of `Contents`


ASKING = (
    Asking(
        "listRepositories", "/repositories", "Repositories, and what they take of the disk.",
        questions.ListRepositories, models.Repositories, "list_repositories",
    ),
    Asking(
        "listImages", "/images", "A repository's images.",
        questions.ListImages, models.Images, "list_images",
    ),
    Asking(
        "getImage", "/image", "One image: manifests, layers, history, referrers.",
        questions.GetImage, models.Image, "get_image",
    ),
    Asking(
        "listFiles", "/image/files", "What is in an image, by which layer.",
        questions.ListFiles, models.Files, "list_files",
    ),
    Asking(
        "diffImages", "/image/diff", "What is another way in another image.",
        questions.DiffImages, models.Diff, "diff_images",
    ),
    Asking(
        "listLayerFiles", "/layer/files", "What one layer holds.",
        questions.ListLayerFiles, models.Files, "list_layer_files",
    ),
    Asking(
        "listLeaving", "/store/next", "What would go next to make room, in order, and why.",
        questions.ListLeaving, models.Leaving, "list_leaving",
    ),
    Asking(
        "listBlobs", "/blobs", "Everything that is on disk.",
        questions.ListBlobs, models.Blobs, "list_blobs",
    ),
)  # fmt: skip
"""What a running mirror is asked by GET, and a store at rest by its method."""

COMPARE = "/image/compare"

Answer = Callable[[Any], Awaitable[msgspec.Struct]]
"""Answers a question, as a method of `Contents` does."""


def contents_operations(
    contents: Contents, comparing: Comparing, fuller: Mapping[str, Answer]
) -> tuple[Operation, ...]:
    """All of them. Comparing asks registries, and is no GET, so that no other site has it done.

    What a running mirror answers `fuller` than a store at rest stands in its place, by method.
    """
    answers = {one.method: getattr(contents, one.method) for one in ASKING} | {**fuller}
    reading = (
        Operation(
            one.name, "GET", one.path, one.summary, one.answer,
            _refusing(answers[one.method]), query=one.question, may_refuse=_MAY_REFUSE,
            tells_contents=True,
        )
        for one in ASKING
    )  # fmt: skip
    return (
        *reading,
        Operation(
            "compareImage", "POST", COMPARE, "What each endpoint says of an image.",
            models.Comparison, _refusing(comparing.compare), questions.CompareImage,
            may_refuse=_MAY_REFUSE, tells_contents=True,
        ),
    )  # fmt: skip


def _refusing(answer: Callable[[Any], Awaitable[msgspec.Struct]]) -> Act:
    async def act(question: Any) -> msgspec.Struct:
        try:
            return await answer(question)
        except (NotHere, ValueError) as error:  # nothing has a name that makes no sense
            raise Refusal(HTTPStatus.NOT_FOUND, str(error)) from error
        except StoreError as error:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from error

    return act
