"""The API's description (OpenAPI 3.1), made from the models that it answers with."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from mirror import __version__
from mirror.control.api.operations import ROOT, Operation
from mirror.control.problems import CONTENT_TYPE, ProblemDetails

_JSON = "application/json"
_REFUSALS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.MISDIRECTED_REQUEST,
)
_REFUSALS_OF_BODIES = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document."""
    types: set[type[msgspec.Struct]] = {ProblemDetails, *(it.answer for it in operations)}
    types |= {it.takes for it in operations if it.takes is not None}
    ordered = sorted(types, key=lambda one: one.__name__)
    schemas, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(ROOT + one.path, {})[one.method.lower()] = _describe(one, of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mirror",
            "version": __version__,
            "description": "What an operator asks of a mirror, and has it do.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _describe(operation: Operation, schemas: dict[type[msgspec.Struct], Any]) -> dict[str, Any]:
    of_bodies = _REFUSALS_OF_BODIES if operation.takes is not None else ()
    refusals = (*_REFUSALS, *of_bodies, *operation.may_refuse)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": _content("As asked.", _JSON, schemas[operation.answer]),
            **{
                str(status.value): _content(status.phrase, CONTENT_TYPE, schemas[ProblemDetails])
                for status in refusals
            },
        },
    }
    if operation.asks is not None:
        described["parameters"] = _parameters(operation.asks)
    if operation.takes is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schemas[operation.takes]}},
        }
    return described


def _parameters(asks: type[msgspec.Struct]) -> list[dict[str, Any]]:
    _, components = msgspec.json.schema_components([asks])
    schema = components[asks.__name__]
    needed = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in needed, "schema": its}
        for name, its in schema["properties"].items()
    ]


def _content(description: str, kind: str, schema: object) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}
