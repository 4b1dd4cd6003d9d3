"""The operations of the admin API: what each does, what it is asked and answered, and how it is audited.

Asking again. Every operation but the making of a key leaves the same behind when it is repeated. To make a key once, an
`Idempotency-Key` is sent: for a day, a repetition under the same admin token makes no second key. It is answered
200 with the key as listings show it, since nobody can show the secret again, and 409 while the outcome of the
first is not known.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus

from quotas.audit import Audit, Change, Told
from quotas.bodies import (
    AliasBody,
    AliasesBody,
    ClientBody,
    ClientsBody,
    EntriesBody,
    HistoriesBody,
    IssuedKeyBody,
    KeyBody,
    KeysBody,
    RevocationBody,
    RevocationsBody,
)
from quotas.clients import Clients
from quotas.directory import Directory, Receipt
from quotas.errors import ConflictError, NotFoundError, StoreUnavailableError
from quotas.forms import (
    AuditQuery,
    ClientChange,
    ClientsQuery,
    HistoriesQuery,
    KeysQuery,
    LimitChange,
    NewAlias,
    NewClient,
    NewKey,
    NewRevocation,
    Rotation,
)
from quotas.holders import Alias, Status
from quotas.openapi import Answer, Operation
from quotas.reports import HistoryPage, Reports
from quotas.revoking import Revoking

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Admin:
    """What the API works with; the first two are made for each call, because plans change while a worker lives."""

    clients: Callable[[Told], Clients]
    revoking: Callable[[Told], Revoking]
    directory: Directory
    audit: Audit
    reports: Reports


@dataclass(slots=True)
class Call:
    """One call under way: whose, about what, and what it has changed so far."""

    admin: Admin
    actor: str
    names: Mapping[str, str]
    idempotency_key: str | None
    changes: list[Change] = field(default_factory=list)

    @property
    def clients(self) -> Clients:
        """What is done with clients and keys, on the plans of now; its changes are audited when the call is over."""
        return self.admin.clients(self.changes.append)

    @property
    def revoking(self) -> Revoking:
        """What is done with tokens; its changes are audited when the call is over."""
        return self.admin.revoking(self.changes.append)


async def create_client(call: Call, asked: NewClient) -> Answer:
    """Create a client; asked again with the same plan, it is the same client."""
    try:
        client = await call.clients.create(asked.name, asked.plan)
    except ConflictError as refusal:
        try:
            client = await call.clients.get(asked.name)
        except NotFoundError:
            raise refusal from None
        if client.plan != asked.plan:
            raise
        return HTTPStatus.OK, ClientBody.of(client)
    return HTTPStatus.CREATED, ClientBody.of(client)


async def list_clients(call: Call, asked: ClientsQuery) -> Answer:
    """List clients by name, a page at a time."""
    return HTTPStatus.OK, ClientsBody.of(await call.admin.directory.page(asked.cursor, asked.limit))


async def show_client(call: Call, _: None) -> Answer:
    """Show a client."""
    return HTTPStatus.OK, ClientBody.of(await call.clients.get(call.names["name"]))


async def change_client(call: Call, asked: ClientChange) -> Answer:
    """Put a client on another plan, suspend or resume it, from its next check on."""
    name, clients = call.names["name"], call.clients
    if asked.plan is not None:
        client = await clients.set_plan(name, asked.plan)
    if asked.status is Status.SUSPENDED:
        client = await clients.suspend(name)
    elif asked.status is Status.ACTIVE:
        client = await clients.resume(name)
    return HTTPStatus.OK, ClientBody.of(client)


async def delete_client(call: Call, _: None) -> Answer:
    """Delete a client, its keys and what it has spent."""
    await call.clients.delete(call.names["name"])
    return HTTPStatus.NO_CONTENT, None


async def set_limit(call: Call, asked: LimitChange) -> Answer:
    """Give a client a limit of its own in place of its plan's, from its next check on."""
    client = await call.clients.set_limit(call.names["name"], call.names["limit"], asked.to_domain())
    return HTTPStatus.OK, ClientBody.of(client)


async def unset_limit(call: Call, _: None) -> Answer:
    """Give a client its plan's limit back."""
    await call.clients.unset_limit(call.names["name"], call.names["limit"])
    return HTTPStatus.NO_CONTENT, None


async def create_key(call: Call, asked: NewKey) -> Answer:
    """Make a key of a client; the answer alone holds the credential."""
    if call.idempotency_key is None:
        return await _issue_key(call, asked)
    name = f"{call.actor} {call.idempotency_key}"
    request = sha256(asked.model_dump_json().encode()).hexdigest()
    earlier = await call.admin.directory.claim(name, request)
    if earlier is not None:
        return await _issued_before(call, earlier, request)
    try:
        status, body = await _issue_key(call, asked)
    except (NotFoundError, ConflictError):
        await call.admin.directory.release(name)
        raise
    try:
        await call.admin.directory.settle(name, Receipt(request, body.id))
    except StoreUnavailableError as error:
        _log.warning("repetitions of the request that made %s are answered 409: %s", body.id, error.kind)
    return status, body


async def _issue_key(call: Call, asked: NewKey) -> tuple[HTTPStatus, IssuedKeyBody]:
    issued = await call.clients.issue_key(
        asked.client,
        name=asked.name,
        environment=asked.environment,
        expires_at_us=asked.expires_at,
        scopes=asked.scopes,
    )
    return HTTPStatus.CREATED, IssuedKeyBody.issued(issued, asked.client)


async def _issued_before(call: Call, receipt: Receipt, request: str) -> Answer:
    """The answer to a repetition: never a second key."""
    if receipt.asked != request:
        raise ConflictError("something else was asked for with this Idempotency-Key")
    if not receipt.made:
        raise ConflictError(
            "the first request with this Idempotency-Key is under way or broke off; see the client's keys, "
            "and revoke what it may have made before you ask with another"
        )
    found = await call.admin.directory.key(receipt.made)
    if found is None:
        raise ConflictError("the key that was made with this Idempotency-Key has been revoked; ask with another")
    return HTTPStatus.OK, KeyBody.of(found[0], found[1].name)


async def list_keys(call: Call, asked: KeysQuery) -> Answer:
    """List the keys of a client, without their secrets."""
    return HTTPStatus.OK, KeysBody.of(await call.clients.keys_of(asked.client), asked.client)


async def show_key(call: Call, _: None) -> Answer:
    """Show a key, without its secret."""
    found = await call.admin.directory.key(call.names["id"])
    if found is None:
        raise NotFoundError("there is no such key")
    return HTTPStatus.OK, KeyBody.of(found[0], found[1].name)


async def rotate_key(call: Call, asked: Rotation) -> Answer:
    """Replace a key; the answer alone holds the new credential, and the old one goes on for the grace time."""
    issued, client = await call.clients.rotate_key(call.names["id"], asked.grace_seconds)
    return HTTPStatus.CREATED, IssuedKeyBody.issued(issued, client.name)


async def revoke_key(call: Call, _: None) -> Answer:
    """Revoke a key: no check that starts after the answer passes with it."""
    await call.clients.revoke_key(call.names["id"])
    return HTTPStatus.NO_CONTENT, None


async def add_alias(call: Call, asked: NewAlias) -> Answer:
    """Have the tokens of a subject count against this client, from the next check on."""
    alias = await call.clients.add_alias(call.names["name"], Alias(asked.issuer, asked.subject))
    return HTTPStatus.CREATED, AliasBody.of(alias)


async def list_aliases(call: Call, _: None) -> Answer:
    """List the subjects whose tokens count against this client."""
    return HTTPStatus.OK, AliasesBody.of(await call.clients.aliases_of(call.names["name"]))


async def remove_alias(call: Call, _: None) -> Answer:
    """Have a subject's tokens count against a client of its own again, from the next check on."""
    await call.clients.remove_alias(call.names["name"], call.names["id"])
    return HTTPStatus.NO_CONTENT, None


async def revoke_tokens(call: Call, asked: NewRevocation) -> Answer:
    """Revoke tokens: no check that starts after the answer passes with one of them. It can be asked again."""
    revocation = asked.to_domain()
    await call.revoking.revoke(revocation)
    return HTTPStatus.CREATED, RevocationBody.of(revocation)


async def list_revocations(call: Call, _: None) -> Answer:
    """List what is revoked, without tokens that have expired since."""
    return HTTPStatus.OK, RevocationsBody.of(await call.revoking.all())


async def restore_tokens(call: Call, _: None) -> Answer:
    """Take a revocation back."""
    await call.revoking.restore(call.names["id"])
    return HTTPStatus.NO_CONTENT, None


async def list_entries(call: Call, asked: AuditQuery) -> Answer:
    """List who changed what, newest first, a page at a time."""
    entries = await call.admin.audit.entries(asked.before or None, asked.limit + 1)
    return HTTPStatus.OK, EntriesBody.of(entries, asked.limit)


async def show_usage(call: Call, asked: HistoriesQuery) -> Answer:
    """Tell what one client has used, or all clients by name, a page at a time."""
    reports = call.admin.reports
    if asked.client is None:
        return HTTPStatus.OK, HistoriesBody.of(await reports.page(asked.cursor, asked.limit, asked.to_domain()))
    client = await call.clients.get(asked.client)
    return HTTPStatus.OK, HistoriesBody.of(HistoryPage([await reports.of(client, asked.to_domain())], None))


_OK, _CREATED, _GONE = HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT
_CLIENT, _LIMIT = "/clients/{name}", "/clients/{name}/limits/{limit}"
_ALIASES = "/clients/{name}/aliases"
_IDEMPOTENCY = {"Idempotency-Key": "Names this request for a day: a repetition makes no second key."}
_READ, _WRITE = (400, 401, 503), (400, 401, 413, 415, 503)

OPERATIONS = (
    Operation("POST", "/clients", create_client, {_CREATED: ClientBody, _OK: ClientBody}, NewClient, (*_WRITE, 409)),
    Operation("GET", "/clients", list_clients, {_OK: ClientsBody}, ClientsQuery, _READ),
    Operation("GET", _CLIENT, show_client, {_OK: ClientBody}, None, (*_READ, 404)),
    Operation("PATCH", _CLIENT, change_client, {_OK: ClientBody}, ClientChange, (*_WRITE, 404, 409)),
    Operation("DELETE", _CLIENT, delete_client, {_GONE: None}, None, (*_READ, 404)),
    Operation("PUT", _LIMIT, set_limit, {_OK: ClientBody}, LimitChange, (*_WRITE, 404, 409)),
    Operation("DELETE", _LIMIT, unset_limit, {_GONE: None}, None, (*_READ, 404)),
    Operation(
        "POST", "/keys", create_key, {_CREATED: IssuedKeyBody, _OK: KeyBody}, NewKey, (*_WRITE, 404, 409), _IDEMPOTENCY
    ),
    Operation("GET", "/keys", list_keys, {_OK: KeysBody}, KeysQuery, (*_READ, 404)),
    Operation("GET", "/keys/{id}", show_key, {_OK: KeyBody}, None, (*_READ, 404)),
    Operation("POST", "/keys/{id}/rotate", rotate_key, {_CREATED: IssuedKeyBody}, Rotation, (*_WRITE, 404, 409)),
    Operation("DELETE", "/keys/{id}", revoke_key, {_GONE: None}, None, (*_READ, 404)),
    Operation("POST", _ALIASES, add_alias, {_CREATED: AliasBody}, NewAlias, (*_WRITE, 404, 409)),
    Operation("GET", _ALIASES, list_aliases, {_OK: AliasesBody}, None, (*_READ, 404)),
    Operation("DELETE", _ALIASES + "/{id}", remove_alias, {_GONE: None}, None, (*_READ, 404)),
    Operation("POST", "/revocations", revoke_tokens, {_CREATED: RevocationBody}, NewRevocation, (*_WRITE, 409)),
    Operation("GET", "/revocations", list_revocations, {_OK: RevocationsBody}, None, _READ),
    Operation("DELETE", "/revocations/{id}", restore_tokens, {_GONE: None}, None, (*_READ, 404)),
    Operation("GET", "/usage", show_usage, {_OK: HistoriesBody}, HistoriesQuery, (*_READ, 404), sheet=True),
    Operation("GET", "/audit", list_entries, {_OK: EntriesBody}, AuditQuery, _READ),
)
