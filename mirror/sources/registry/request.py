"""A request, as it is sent to wherever it leads."""

from dataclasses import dataclass

import aiohttp

from mirror.sources.registry.outgoing import Outgoing

Form = dict[str, str] | bytes
"""The body of a POST, or the fields to make it of."""


@dataclass(slots=True)
class Request:
    """What is sent, to wherever it leads; as the parameters of `Exchange.send`."""

    method: str
    headers: dict[str, str]
    kind: str
    form: Form | None
    body: Outgoing | None
    within: float

    @property
    def is_alone(self) -> bool:
        """Whether its connection carries nothing else."""
        return self.body is not None and self.body.is_alone

    @property
    def may_follow(self) -> bool:
        """Whether it may be sent once more, to somewhere else."""
        return self.form is None and (self.body is None or self.body.may_repeat)

    def forget_who_asks(self) -> None:
        """It goes to another host than it was meant for."""
        self.headers = {k: v for k, v in self.headers.items() if k != "Authorization"}

    def let_go(self, response: aiohttp.ClientResponse) -> None:
        """Done with an answer that leads elsewhere."""
        if self.may_serve_again:
            response.release()
        else:
            response.close()

    @property
    def may_serve_again(self) -> bool:
        """Whether others may have the connection: not with a body stuck in it."""
        return self.body is None or (self.body.is_over and not self.body.is_alone)
