"""HTTP as tables, described as OpenAPI 3.1: the admin API's operations, and the endpoints for everybody.

An operation is found by method and raw path. Paths are matched as they were sent, segment by segment, and each name is
percent-decoded by itself: a name may hold a slash, a dot or a percent sign. Worked example:
`/clients/a%2Fb/limits/per-second` is `/clients/{name}/limits/{limit}` with the names `a/b` and `per-second`, where its
decoded form could be read in two ways.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeGuard
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Body = type[BaseModel]
Answer = tuple[HTTPStatus, BaseModel | None]
_ESCAPES = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})+", re.DOTALL)
_SCHEMAS = "#/components/schemas/"
_TEXT = {"type": "string"}
_SHEET = {"text/csv": {"schema": _TEXT}}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path. `run` takes the call and what was asked; its docstring is the summary.

    `asked` is the model of the query for GET and of the body for all others; None asks nothing. `answers` are what
    success looks like, `refusals` the statuses of this operation's own problems. What can be had as a `sheet` is CSV
    for who asks for that, with a link to the next page.
    """

    method: str
    path: str
    run: Callable[[Any, Any], Awaitable[Answer]]
    answers: Mapping[HTTPStatus, Body | None]
    asked: Body | None = None
    refusals: tuple[int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    sheet: bool = False

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one status of an endpoint means. `body` is a model, `str` for text, `dict` for any object, None for none.

    `headers` are what always comes with it, as name -> what it says; `may` what comes with some. What can be had as a
    `sheet` is CSV for who asks for that.
    """

    what: str
    body: Body | type[str | dict[str, Any]] | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    may: Mapping[str, str] = field(default_factory=dict)
    sheet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A path that everybody may ask, with these methods. `name` is its own among all, `summary` says what it does.

    `asked` is the model of the body, which is JSON; None reads none. `query` is that of the query, whose fields may all
    be left out. `headers` are the request headers that are read, as name -> JSON schema; `schemes` the security schemes
    of which one is needed, none when there are none.
    """

    path: str
    methods: tuple[str, ...]
    name: str
    summary: str
    answers: Mapping[int, Told]
    asked: Body | None = None
    query: Body | None = None
    headers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schemes: tuple[str, ...] = ()


def publish(endpoints: Sequence[Endpoint], schemes: Mapping[str, Any]) -> dict[str, Any]:
    """The `paths` and `components` of these endpoints; `schemes` are the security schemes by name."""
    paths = {
        each.path: {method.lower(): _published(each, method) for method in each.methods if method in _KNOWN_METHODS}
        for each in endpoints
    }
    asked = {each.asked for each in endpoints if each.asked is not None}
    answered = {told.body for each in endpoints for told in each.answers.values() if _is_model(told.body)}
    return {"paths": paths, "components": {"schemas": _schemas(asked, answered), "securitySchemes": dict(schemes)}}


_KNOWN_METHODS = {"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"}
"""Those that a path item can describe (OpenAPI 3.1, section 4.8.9): CONNECT is not among them."""


def _is_model(body: object) -> TypeGuard[Body]:
    return isinstance(body, type) and issubclass(body, BaseModel)


def _published(endpoint: Endpoint, method: str) -> dict[str, Any]:
    name = endpoint.name
    published: dict[str, Any] = {
        "operationId": name if len(endpoint.methods) == 1 else f"{name}_{method.lower()}",
        "summary": endpoint.summary,
        "security": [{scheme: []} for scheme in endpoint.schemes],
        "parameters": [
            *({"name": each, "in": "path", "required": True, "schema": _TEXT} for each in _names(endpoint.path)),
            *({"name": each, "in": "header", "schema": schema} for each, schema in endpoint.headers.items()),
            *(() if endpoint.query is None else _query(endpoint.query)),
        ],
        "responses": {str(status): _told(told, method) for status, told in endpoint.answers.items()},
    }
    if endpoint.asked is not None:
        published["requestBody"] = {"required": True, "content": _content(endpoint.asked, "application/json")}
    return published


def _told(told: Told, method: str) -> dict[str, Any]:
    headers = {name: {"description": what, "required": True, "schema": _TEXT} for name, what in told.headers.items()}
    headers |= {name: {"description": what, "schema": _TEXT} for name, what in told.may.items()}
    response: dict[str, Any] = {"description": told.what, "headers": headers}
    if told.body is not None and method != "HEAD":
        plain = _TEXT if told.body is str else {"type": "object"}
        schema = {"$ref": _SCHEMAS + told.body.__name__} if _is_model(told.body) else plain
        response["content"] = {told.media_type: {"schema": schema}} | (_SHEET if told.sheet else {})
    return response


def describe(operations: Sequence[Operation], prefix: str, problem: Body) -> dict[str, Any]:
    """The `paths` and `components` of these operations; every refusal is a `problem`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(prefix + operation.path, {})[operation.method.lower()] = _described(operation, problem)
    asked = {each.asked for each in operations if each.asked is not None and each.method != "GET"}
    answered = {answer for each in operations for answer in each.answers.values() if answer is not None}
    bearer = {"type": "http", "scheme": "bearer", "description": "An admin token."}
    return {
        "paths": paths,
        "components": {"schemas": _schemas(asked, {*answered, problem}), "securitySchemes": {"adminToken": bearer}},
    }


def _schemas(asked: Iterable[Body], answered: Iterable[Body]) -> dict[str, Any]:
    models = [(model, "validation") for model in asked] + [(model, "serialization") for model in answered]
    ordered = sorted(models, key=lambda pair: pair[0].__name__)
    _, definitions = models_json_schema(ordered, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type] # Literals.
    found: dict[str, Any] = definitions["$defs"]
    return found


def _described(operation: Operation, problem: Body) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.run.__name__,
        "summary": (operation.run.__doc__ or "").partition("\n")[0],
        "security": [{"adminToken": []}],
        "parameters": list(_parameters(operation)),
        "responses": {str(int(status)): _response(status, body) for status, body in operation.answers.items()},
    }
    if operation.sheet:
        link = {"description": "Of CSV, where the next page is (RFC 8288, `next`).", "schema": _TEXT}
        for response in described["responses"].values():
            response["content"] |= _SHEET
            response["headers"] = {"Link": link}
    for status in operation.refusals:
        described["responses"][str(status)] = _response(HTTPStatus(status), problem, "application/problem+json")
    if operation.asked is not None and operation.method != "GET":
        described["requestBody"] = {"required": True, "content": _content(operation.asked, "application/json")}
    return described


def _parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in _names(operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": _TEXT}
    for name, told in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, "schema": _TEXT, "description": told}
    if operation.asked is not None and operation.method == "GET":
        yield from _query(operation.asked)


def _query(asked: Body) -> Iterator[dict[str, Any]]:
    """The fields of a query. Each has a schema that stands alone: what it refers to is put in its place."""
    schema = asked.model_json_schema()
    for name, found in schema["properties"].items():
        inline = _inline(found, schema.get("$defs", {}))
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": inline}


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without references, none of which may lead to itself, and without null, which no query can say."""
    if isinstance(schema, list):
        return [_inline(each, definitions) for each in schema if each != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    found = {key: _inline(value, definitions) for key, value in schema.items() if key != "$ref"}
    if "$ref" in schema:
        found |= _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if found.get("default", "") is None:
        del found["default"]
    choices = found.get("anyOf", ())
    return {**found.pop("anyOf")[0], **found} if len(choices) == 1 else found


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def _response(status: HTTPStatus, body: Body | None, media_type: str = "application/json") -> dict[str, Any]:
    response: dict[str, Any] = {"description": status.phrase}
    if body is not None:
        response["content"] = _content(body, media_type)
    return response


def _content(body: Body, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _SCHEMAS + body.__name__}}}
