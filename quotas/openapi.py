"""HTTP operations as a table: found by method and raw path, and described as OpenAPI 3.1.

Paths are matched as they were sent, segment by segment, and each name is percent-decoded by itself: a name may hold a
slash, a dot or a percent sign. Worked example: `/clients/a%2Fb/limits/per-second` is `/clients/{name}/limits/{limit}`
with the names `a/b` and `per-second`, where its decoded form could be read in two ways.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Body = type[BaseModel]
Answer = tuple[HTTPStatus, BaseModel | None]
_ESCAPES = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})+", re.DOTALL)
_SCHEMAS = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `run` takes the call and what was asked; its docstring is the summary.

    `asked` is the model of the query for GET and of the body for all others; None asks nothing. `answers` are what
    success looks like, `refusals` the statuses of this operation's own problems.
    """

    method: str
    path: str
    run: Callable[[Any, Any], Awaitable[Answer]]
    answers: Mapping[HTTPStatus, Body | None]
    asked: Body | None = None
    refusals: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def names(self, path: Sequence[bytes]) -> Mapping[str, str] | None:
        """The names in a raw path's segments; None when it is another path. Raises ValueError for bad escapes."""
        template = self.path.split("/")
        if len(path) != len(template) or any(
            not part if word.startswith("{") else part != word.encode()
            for word, part in zip(template, path, strict=True)
        ):
            return None
        pairs = zip(template, path, strict=True)
        return {word.strip("{}"): _decoded(part) for word, part in pairs if word.startswith("{")}


def _decoded(part: bytes) -> str:
    if not _ESCAPES.fullmatch(part):
        raise ValueError("a percent sign in the path is written as %25")
    return unquote_to_bytes(part).decode()


def describe(operations: Sequence[Operation], prefix: str, problem: Body) -> dict[str, Any]:
    """The `paths` and `components` of these operations; every refusal is a `problem`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = _described(operation, problem)
    asked = {each.asked for each in operations if each.asked is not None and each.method != "GET"}
    answered = {answer for each in operations for answer in each.answers.values() if answer is not None}
    models = [(model, "validation") for model in asked] + [(model, "serialization") for model in {*answered, problem}]
    ordered = sorted(models, key=lambda pair: pair[0].__name__)
    _, definitions = models_json_schema(ordered, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type] # Literals.
    bearer = {"type": "http", "scheme": "bearer", "description": "An admin token."}
    return {
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": {"adminToken": bearer}},
    }


def _described(operation: Operation, problem: Body) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.run.__name__,
        "summary": (operation.run.__doc__ or "").partition("\n")[0],
        "security": [{"adminToken": []}],
        "parameters": list(_parameters(operation)),
        "responses": {str(int(status)): _response(status, body) for status, body in operation.answers.items()},
    }
    for status in operation.refusals:
        described["responses"][str(status)] = _response(HTTPStatus(status), problem, "application/problem+json")
    if operation.asked is not None and operation.method != "GET":
        described["requestBody"] = {"required": True, "content": _content(operation.asked, "application/json")}
    return described


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    text = {"type": "string"}
    for name in re.findall(r"\{(\w+)\}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": text}
    for name, told in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, "schema": text, "description": told}
    if operation.asked is not None and operation.method == "GET":
        schema = operation.asked.model_json_schema()
        for name, found in schema["properties"].items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": found}


def _response(status: HTTPStatus, body: Body | None, media_type: str = "application/json") -> dict[str, Any]:
    response: dict[str, Any] = {"description": status.phrase}
    if body is not None:
        response["content"] = _content(body, media_type)
    return response


def _content(body: Body, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _SCHEMAS + body.__name__}}}
