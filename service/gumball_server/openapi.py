"""The published description of `POST /sample`, which does not go through FastAPI."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gumball_server.domain import INTEGERS, PER_DRAW, PER_DRAW_AND_CATEGORY, TOP, Mode, Output
from gumball_server.wire import binary_form, json_form
from gumball_server.wire.arrays import LOGITS_DTYPES

DESCRIPTION = """
Categorical samples from logits, batched and reproducible: the same seed gives the same bits, alone or in any batch, on
any replica, over any transport.

`POST /sample` takes JSON, raw bytes or a NumPy file, and answers in the same three forms, as `Accept` asks. Errors are
`application/problem+json` (RFC 9457) with the members `reason` and `field`.
"""

_BINARY = {"type": "string", "format": "binary"}
_LONG = {"type": "string", "pattern": "^[0-9]+$"}
_EXAMPLES = {
    "straight-through": {
        "summary": "The drawn index and the relaxed sample of the same noise",
        "value": {"logits": [[0.1, 2.0, -1.0]], "mode": "straight_through", "tau": 0.5, "seed": 42},
    },
    "a seed a row": {
        "summary": "Rows that get the same bits in any batch; null masks a category",
        "value": {"logits": [[0.1, 2.0, None], [1.5, 0.0, 0.3]], "seeds": ["7", "8"], "draws": 3},
    },
}


def add_sample(app: FastAPI) -> None:
    """Add `POST /sample` to what the application publishes."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend the schema


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description.strip(), routes=app.routes)
    reference, components = json_form.schema()
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= components | {"SampleAnswer": _answer_schema(), "Problem": _problem_schema()}
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"bearer": []}]  # a service may have tokens, or none
    document["paths"]["/sample"] = {"post": _operation(reference)}
    return document


def _operation(request: dict[str, Any]) -> dict[str, Any]:
    problems = {
        400: "The body does not parse",
        401: "The service has tokens, and none of them was shown",
        406: "Accept allows no form of an answer",
        413: "The request or its answer is too large",
        415: "The body has another form",
        422: "A field is at fault; `field` names it",
        429: "The queue is full; Retry-After says when to try again",
        503: "Starting, or shutting down",
        504: "Not done within Request-Timeout",
    }
    return {
        "operationId": "sample",
        "summary": "Draw samples",
        "parameters": [*map(_query_parameter, binary_form.QUERY_FIELDS), _TIMEOUT],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": request, "examples": _EXAMPLES},
                "application/octet-stream": {"schema": _BINARY},
                "application/x-npy": {"schema": _BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "The samples",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/SampleAnswer"}},
                    "application/octet-stream": {"schema": _BINARY},
                    "application/x-npy": {"schema": _BINARY},
                },
            }
        }
        | {
            str(status): {
                "description": text,
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
            for status, text in problems.items()
        },
    }


_TIMEOUT = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds after which the answer is no longer wanted",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def _query_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if name == "mode":
        schema["enum"] = [mode.value for mode in Mode]
    if name == "dtype":
        schema["enum"] = list(LOGITS_DTYPES)
    return {"name": name, "in": "query", "description": "Of a binary body; lists are comma-separated", "schema": schema}


def _answer_schema() -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 0}
    shape = dict.fromkeys(("rows", "draws", "categories"), whole)
    timings = dict.fromkeys(("queue_ns", "compute_ns"), whole)
    return {
        "type": "object",
        "required": ["contract", "tau", "shape", "timings"],
        "additionalProperties": False,
        "properties": {
            "contract": {"type": "string", "description": "Version of the sampling contract"},
            "seed": _LONG | {"description": "The seed used, where one was"},
            "seeds": _array(1, _LONG) | {"description": "The seeds used, where one a row was given"},
            "tau": _array(1, {"type": "number"}) | {"description": "The tau used: one value, or one a row"},
            "shape": {"type": "object", "required": list(shape), "properties": shape},
            "timings": {"type": "object", "required": list(timings), "properties": timings},
            **{output.value: _output_schema(output) for output in Output},
        },
    }


def _array(dimensions: int, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _array(dimensions - 1, items)} if dimensions else items


def _output_schema(output: Output) -> dict[str, Any]:
    items = {"type": "integer", "minimum": 0} if output in INTEGERS else {"type": ["number", "null"]}
    if output in PER_DRAW:
        return {
            "description": "[rows, draws], or [rows, draws, k] without replacement; null is -inf",
            "anyOf": [_array(2, items), _array(3, items)],
        }
    if output in PER_DRAW_AND_CATEGORY:
        return _array(3, items) | {"description": "[rows, draws, categories]; null is -inf"}
    if output in TOP:
        return _array(2, items) | {"description": "[rows, n]; null is -inf"}
    if output is Output.PROBS:
        return _array(2, items) | {"description": "[rows, categories]"}
    return _array(1, items) | {"description": "[rows], in nats"}


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "reason"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "reason": text | {"description": "For programs: INVALID_ARGUMENT, TOO_LARGE, OVERLOADED, ..."},
            "field": text | {"description": "The field at fault, such as logits[3]"},
        },
    }
