"""The document at `/openapi.json` against the running service, by requests that follow it and by some that do not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import Phase, given, settings
from schemathesis import APIOperation, Case, CheckFunction, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from quotas import contract, web

from .processes import Home, Serving

PLANS = """
plans:
  free:
    limits:
      units: {quota: 1000000/year}
      few: {rate: 1/hour, burst: 30, match: {methods: [POST]}}
"""
DOCUMENT = contract.document([endpoint for endpoint, _ in web.HANDLERS])
SCHEMA = from_dict(DOCUMENT)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]
ASKING = [each for each in OPERATIONS if each.body or each.headers or each.query]
Checks = list[CheckFunction]
Operation = APIOperation[Any, Any, Any, Any]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = Home(Path(tmp_path_factory.mktemp("contract")))
    home.plans(PLANS)
    with home.serving("--demo") as serving:
        yield serving


def ask(serving: Serving, operation: Operation, mode: GenerationMode, *, keyed: bool, excluded: Checks) -> None:
    """Send what the operation's description makes, and hold every answer against it."""
    headers = {"x-api-key": serving.curl[0]} if keyed else {}

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    def answers(case: Case[Any]) -> None:
        case.call_and_validate(serving.url, headers=headers, excluded_checks=excluded)

    answers()


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "nobody"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_what_follows_the_document_is_answered_as_it_says(
    serving: Serving, operation: Operation, *, keyed: bool
) -> None:
    # With a key in hand there is no request without one; a JSON schema calls 1.0 an integer, and we do not, and
    # it cannot say which time zones there are.
    excluded = [ignored_auth] if keyed else []
    excluded += [positive_data_acceptance] if operation.path in {"/v1/refund", "/v1/usage"} else []
    ask(serving, operation, GenerationMode.POSITIVE, keyed=keyed, excluded=excluded)


@pytest.mark.parametrize("operation", ASKING, ids=lambda operation: operation.label)
def test_what_does_not_is_refused_as_it_says(serving: Serving, operation: Operation) -> None:
    ask(serving, operation, GenerationMode.NEGATIVE, keyed=True, excluded=[ignored_auth])


def test_the_document_is_openapi_3_1() -> None:
    assert len(OPERATIONS) == len(list(SCHEMA.get_all_operations())) > 30
    SCHEMA.validate()


def test_the_service_shows_the_document_of_its_routes(serving: Serving) -> None:
    response = httpx.get(f"{serving.url}/openapi.json", trust_env=False)
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == json.loads(json.dumps(DOCUMENT))
    assert response.json()["openapi"] == "3.1.0"
    assert list(response.json()["paths"]) == [
        "/check",
        "/check/nginx",
        "/check/envoy/{path}",
        "/v1/refund",
        "/v1/usage",
        "/v1/keys",
        "/v1/keys/{id}/rotate",
        "/v1/keys/{id}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ]
