"""The API's description (OpenAPI 3.1), made from the models that it answers with."""

from collections.abc import Iterator, Sequence
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
    HTTPStatus.INSUFFICIENT_STORAGE,
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
    refusals: tuple[HTTPStatus, ...] = (*_REFUSALS, *operation.may_refuse)
    if operation.takes is not None:
        refusals += _REFUSALS_OF_BODIES
    elif operation.query is not None:
        refusals += (HTTPStatus.BAD_REQUEST,)
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
    if operation.query is not None:
        described["parameters"] = [*_parameters(operation.query)]
    if operation.takes is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schemas[operation.takes]}},
        }
    return described


def _parameters(query: type[msgspec.Struct]) -> Iterator[dict[str, Any]]:
    schema = msgspec.json.schema(query)
    properties = schema["$defs"][query.__name__]["properties"]
    for field in msgspec.structs.fields(query):
        described = _inlined(properties[field.name], schema["$defs"])
        yield {
            "name": field.name, "in": "query", "required": field.required, "schema": described,
        }  # fmt: skip


def _inlined(schema: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema, without what cannot be said in a query: that it is null."""
    choices = [it for it in schema.get("anyOf", [schema]) if it.get("type") != "null"]
    (chosen,) = choices
    if "$ref" in chosen:
        return dict(named[chosen["$ref"].rpartition("/")[2]])
    return {key: value for key, value in chosen.items() if key != "default" or value is not None}


def _content(description: str, kind: str, schema: object) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}
