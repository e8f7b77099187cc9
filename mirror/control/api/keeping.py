"""The part of the table that is about images that are kept: pins, removal, collecting."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from mirror.control import acts
from mirror.control.api.operations import Act, Operation
from mirror.control.keeping import Keeping
from mirror.control.problems import Refusal
from mirror.oci.errors import StoreError
from mirror.pull.not_done import NotDone, NothingHere

_Wanted = TypeVar("_Wanted")
_Answer = TypeVar("_Answer", bound=msgspec.Struct)

MAY_REFUSE = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.INSUFFICIENT_STORAGE)
"""With what `refusing` refuses."""


def keeping_operations(keeping: Keeping) -> tuple[Operation, ...]:
    """Everything there is of it."""

    async def pins(_: None) -> acts.Pins:
        return await keeping.list_pins()

    return (
        Operation("listPins", "GET", "/pins", "Images that are never evicted.", acts.Pins, pins),
        Operation(
            "pin", "POST", "/pins", "Have an image here, and never evicted.",
            acts.Pins, refusing(keeping.pin), acts.ToPin, may_refuse=MAY_REFUSE,
        ),
        Operation(
            "unpin", "POST", "/pins/remove", "Let an image go when there is need of room.",
            acts.Pins, refusing(keeping.unpin), acts.ImageName, may_refuse=MAY_REFUSE,
        ),
        Operation(
            "removeImage", "POST", "/images/remove",
            "Forget what a tag means, and remove what nothing else needs.",
            acts.Removed, refusing(keeping.remove), acts.ImageName, may_refuse=MAY_REFUSE,
        ),
        Operation(
            "forgetTag", "POST", "/tags/forget", "Ask upstream anew what a tag means.",
            acts.ImageName, refusing(keeping.forget_tag), acts.ImageName, may_refuse=MAY_REFUSE,
        ),
        Operation(
            "collect", "POST", "/gc", "Have go what nothing on record names any more.",
            acts.Collected, refusing(keeping.collect), acts.ToCollect, may_refuse=MAY_REFUSE,
        ),
    )  # fmt: skip


def refusing(act: Callable[[_Wanted], Awaitable[_Answer]]) -> Act:
    """The same, with what is not done as a refusal."""

    async def do(wanted: _Wanted) -> _Answer:
        try:
            return await act(wanted)
        except NothingHere as error:
            raise Refusal(HTTPStatus.NOT_FOUND, str(error)) from error
        except (NotDone, ValueError) as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from error
        except StoreError as error:
            raise Refusal(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from error

    return do
