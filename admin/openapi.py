"""plan: the OpenAPI 3.1 document of the JSON API, made from the table of operations."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from typing import Any, Final, Literal

from admin.operations import OPERATIONS, Operation
from base import errors

# HTTP status for the code of an error; all others are 500. 503: the same call may succeed later.
STATUS_OF: Final[dict[str, int]] = {
    errors.InvalidRequest.code: 400,
    errors.ConfigError.code: 400,
    errors.AccessDenied.code: 401,
    errors.NotFound.code: 404,
    errors.AlreadyExists.code: 409,
    errors.NotLeader.code: 503,
    errors.NotOwner.code: 503,
    errors.StaleEpoch.code: 503,
    errors.RegionOffline.code: 503,
    errors.NotConnected.code: 503,
    errors.Overloaded.code: 503,
    errors.CutAbandoned.code: 503,
    errors.NoQuorum.code: 503,
    errors.Stopping.code: 503,
    errors.LinkLost.code: 502,
    errors.RequestTimeout.code: 504,
    errors.NoSpace.code: 507,
}

_ANY_MAY: Final = ("denied", "stopping", "storage")
_SIZE: Final = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}],
    "examples": ["10GiB", 10737418240],
}
_PLAIN: Final = {int: "integer", float: "number", str: "string", bool: "boolean"}


def schema_of(kind: Any, components: dict[str, Any], *, sizes: bool = False) -> dict[str, Any]:
    """JSON Schema of a type out of `admin.view`; named shapes go into `components`.

    sizes: `…_bytes` may be text as well, as in what callers send.
    """
    if typing.is_typeddict(kind):
        if kind.__name__ not in components:
            components[kind.__name__] = {}  # its place is held while its members are looked at
            components[kind.__name__] = _object_of(kind, components, sizes)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": schema_of(typing.get_args(kind)[0], components)}
    assert typing.get_origin(kind) is Literal, kind
    return {"type": "string", "enum": list(typing.get_args(kind))}


def _object_of(kind: Any, components: dict[str, Any], sizes: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is typing.NotRequired:
            hint = typing.get_args(hint)[0]
        else:
            required.append(key)
        text_too = sizes and key.endswith("_bytes")
        properties[key] = _SIZE if text_too else schema_of(hint, components, sizes=sizes)
    return {
        "type": "object",
        "description": (kind.__doc__ or "").strip(),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def document(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """The whole document, ready for JSON."""
    components: dict[str, Any] = {
        "Error": {
            "type": "object",
            "description": "definite: it certainly did not happen, so it may be sent elsewhere.",
            "properties": {
                "code": {"type": "string"},
                "text": {"type": "string"},
                "definite": {"type": "boolean"},
            },
            "required": ["code", "text", "definite"],
            "additionalProperties": False,
        }
    }
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(
            operation, components
        )
    for path, media, about in (
        ("/metrics", "text/plain", "Counters of this node in the Prometheus text format."),
        ("/openapi.json", "application/json", "This document."),
    ):
        paths[path] = {"get": _text_operation(path, media, about)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Eightfold",
            "version": "1",
            "description": "What an operator can see of the cluster, and ask of it, at any node.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _text_operation(path: str, media: str, about: str) -> dict[str, Any]:
    name = path.strip("/").split(".")[0]
    answer = {"description": about, "content": {media: {}}}
    described: dict[str, Any] = {
        "operationId": name, "summary": about, "responses": {"200": answer}
    }  # fmt: skip
    if path == "/openapi.json":
        described["security"] = []
    else:
        described["responses"]["401"] = _error_answer()
    return described


def _error_answer() -> dict[str, Any]:
    return {
        "description": "Refused; the text says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _described(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    answer = schema_of(operation.answer, components)
    responses: dict[str, Any] = {
        str(operation.status): {
            "description": "Done.", "content": {"application/json": {"schema": answer}}
        }
    }  # fmt: skip
    codes = {*operation.errors, *_ANY_MAY, *(["invalid"] if operation.query else [])}
    statuses = {STATUS_OF.get(code, 500) for code in codes}
    for status in sorted(statuses | ({413} if operation.body else set())):
        responses[str(status)] = _error_answer()
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.about,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", operation.path)
        ],
        "responses": responses,
    }
    for number in operation.query:
        schema: dict[str, Any] = {
            "type": "integer", "minimum": number.least, "maximum": number.most
        }  # fmt: skip
        if number.default is not None:
            schema["default"] = number.default
        described["parameters"].append(
            {
                "name": number.name,
                "in": "query",
                "required": number.default is None,
                "description": number.about,
                "schema": schema,
            }
        )
    if operation.body is not None:
        body = schema_of(operation.body, components, sizes=True)
        described["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": body}}
        }  # fmt: skip
    return described
