"""JSON at the edges: bodies in within bounds, answers out, and every error that is an answer as problem details.

Problem details are RFC 9457. They quote no path, no key and no client.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from quotas import sheets
from quotas.bodies import FaultBody, HistoryBody, ProblemBody
from quotas.errors import ConflictError, Fault, NotFoundError, QuotasError, StoreUnavailableError
from quotas.rendering import PROBLEM

MAX_BODY = 16_384
MAX_FAULTS = 20
"""How many faults of one request are told."""

_MAX_PARAMETERS = 10

NO_STORE = {"cache-control": "no-store"}


async def body(request: Request) -> bytes:
    """The body of a request. Raises HTTPException: 415 when it says to be no JSON, 413 above `MAX_BODY` bytes."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if media_type.lower() != "application/json":
        raise HTTPException(415, "Send `Content-Type: application/json`.")
    read = b""
    async for chunk in request.stream():
        read += chunk
        if len(read) > MAX_BODY:
            raise HTTPException(413, f"The body has at most {MAX_BODY} bytes.")
    return read


def query(request: Request) -> dict[str, str]:
    """The fields of a request's query. Raises HTTPException 400 when it cannot be read, or a field stands twice."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise HTTPException(400, "The query is not UTF-8, percent-encoded, or has too many fields.") from None
    if len(dict(pairs)) < len(pairs):
        raise HTTPException(400, "A field of the query stands twice.")
    return dict(pairs)


def problem(error: HTTPException | ValidationError | QuotasError) -> Response:
    """An error as an answer."""
    if isinstance(error, HTTPException):
        return answer(error.status_code, _about(error.status_code, error.detail), error.headers)
    if isinstance(error, ValidationError):
        faults = _faults(error)
        about = _about(400, "; ".join(f"{fault.path}: {fault.message}" for fault in faults))
        return answer(400, about.model_copy(update={"faults": faults}))
    if isinstance(error, StoreUnavailableError):
        detail = f"The store did not answer ({error.kind}). What was asked may have been done; it can be asked again."
        return answer(503, _about(503, detail), {"retry-after": "1"})
    if isinstance(error, NotFoundError):
        return answer(
            404, _about(404, "There is no such client, key, alias or revocation, or no such limit of its own.")
        )
    assert isinstance(error, ConflictError), "operations raise what an answer can be made of"
    return answer(409, _about(409, str(error)))


def _about(status: int, detail: str) -> ProblemBody:
    return ProblemBody(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)


def _faults(error: ValidationError) -> list[FaultBody]:
    """What is wrong and where, each one line and within bounds: both can quote what was sent."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[:MAX_FAULTS]
    places = [".".join(map(str, each["loc"])) or "(body)" for each in found]
    faults = [
        Fault(place, each["msg"].removeprefix("Value error, ")) for place, each in zip(places, found, strict=True)
    ]
    return [FaultBody(path=fault.path, message=fault.message) for fault in faults]


def answer(status: int, body: BaseModel | None, headers: Mapping[str, str] | None = None) -> Response:
    """An answer; without a body it has no type either, and fields of a body that were never set are left out."""
    content = b"" if body is None else body.model_dump_json(exclude_unset=True).encode()
    media_type = PROBLEM.decode() if isinstance(body, ProblemBody) else "application/json"
    return Response(content, status, {**NO_STORE, **(headers or {})}, media_type if content else None)


def histories(request: Request, body: BaseModel, told: Iterable[HistoryBody], link: str | None = None) -> Response:
    """An answer with these histories, which is `body`, or CSV for who prefers that.

    `link` is where the next page is (RFC 8288), as CSV has no place for it; None when there is none.
    """
    headers = {"vary": "Accept"}
    if not sheets.is_asked_for(",".join(request.headers.getlist("accept"))):
        return answer(200, body, headers)
    if link is not None:
        headers["link"] = f'<{link}>; rel="next"'
    text = sheets.written(told)
    return Response(text, headers={**NO_STORE, **headers, "content-type": sheets.CONTENT_TYPE})
