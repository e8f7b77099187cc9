"""What becomes of a fault that nobody expects."""

import json
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mirror.front.api.access import Access
from mirror.front.api.frontend import Frontend
from mirror.front.api.handlers import Handlers
from mirror.front.settings import Settings
from mirror.telemetry.asked import Requests
from mirror.telemetry.faults import Faults
from mirror.telemetry.traffic import Traffic


class Broken(Handlers):
    """Has a fault."""

    def __init__(self) -> None:
        pass

    async def answer(self, *_: Any, **__: Any) -> web.StreamResponse:
        raise KeyError("/var/lib/mirror/secret")


async def test_a_fault_of_our_own_tells_the_client_an_id_and_the_log_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "mirror")
    traffic = Traffic()
    frontend = Frontend(
        Broken(),
        Access(Settings()),
        traffic,
        Requests(traffic, clock=time.monotonic, steady=time.perf_counter),
        Faults(),
    )
    response = await frontend(make_mocked_request("GET", "/v2/"))
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    (error,) = json.loads(response.body)["errors"]
    assert (response.status, error["code"]) == (500, "UNKNOWN")
    assert b"secret" not in response.body
    fault, line = caplog.records
    assert fault.exc_info is not None
    assert fault.exc_info[0] is KeyError
    assert {vars(record)["request_id"] for record in (fault, line)} == {error["detail"]["request"]}
    assert line.getMessage() == "GET /v2/"
