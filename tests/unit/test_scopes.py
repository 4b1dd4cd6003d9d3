"""Scopes as text, in plans and in tokens: what they are, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import scopes
from quotas.errors import ConfigError, CredentialError
from quotas.plan_files import parse
from quotas.tokens import Verified, verify

from .signing import CLAIMS, NOW, SETS, signed, trusted

WORDS = st.text(st.sampled_from("az09:/.-~!#[]"), min_size=1, max_size=64)
LONGEST = [f"{number}".zfill(scopes.MAX_SCOPE) for number in range(scopes.MAX_SCOPES)]


def granted(**claims: object) -> frozenset[str]:
    found = verify(signed({**CLAIMS, **claims}), trusted(), SETS, now_s=NOW)
    assert isinstance(found, Verified)
    return found.scopes


def plan_of(scope_list: str, where: str = "") -> str:
    match = f"{{path: /admin/*, required_scopes: {scope_list}}}" if where == "limit" else "{path: /admin/*}"
    required = f"required_scopes: {scope_list}" if where == "plan" else ""
    return f"plans: {{pro: {{limits: {{a: {{rate: 1/second, match: {match}}}}}, {required}}}}}"


def faults(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "quotas.yaml")
    return [(fault.path, fault.message) for fault in caught.value.faults]


@given(st.frozensets(WORDS, max_size=scopes.MAX_SCOPES))
def test_written_and_read_they_are_the_same(words: frozenset[str]) -> None:
    assert scopes.split(scopes.joined(words)) == words == scopes.checked(words) == scopes.claimed(scopes.joined(words))


def test_the_most_that_can_be() -> None:
    assert scopes.checked([*LONGEST, LONGEST[0]]) == frozenset(LONGEST)
    with pytest.raises(ValueError, match="at most 32"):
        scopes.checked([*LONGEST, "x"])


@pytest.mark.parametrize("word", ["", " ", "a b", "a\n", "\t", '"', "a\\b", "é", "\x7f", "\x00", "x" * 65, "日本"])
def test_what_is_no_scope(word: str) -> None:
    with pytest.raises(ValueError, match="is no scope"):
        scopes.checked(["good", word])
    if len(word) <= scopes.MAX_SCOPE:
        assert scopes.claimed([word, "good"]) == {"good"}


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({}, set()),
        ({"scope": ""}, set()),
        ({"scope": "read"}, {"read"}),
        ({"scope": "read  write read "}, {"read", "write"}),
        ({"scope": ["read", "write"]}, {"read", "write"}),
        ({"scope": []}, set()),
        ({"scp": "read write"}, {"read", "write"}),
        ({"scp": ["read", "write"]}, {"read", "write"}),
        ({"scope": "read", "scp": ["admin"]}, {"read"}),
        ({"scope": "", "scp": ["admin"]}, set()),
        ({"scope": "https://www.example.com/auth/" + "x" * 64}, {"https://www.example.com/auth/" + "x" * 64}),
        ({"scope": "Read"}, {"Read"}),
        ({"scope": "a\tb c"}, {"c"}),
        ({"scope": ["read write"]}, set()),
        ({"scopes": "read", "permissions": ["read"]}, set()),
    ],
)
def test_a_token_has_those_of_its_claim(claims: dict[str, object], found: set[str]) -> None:
    assert granted(**claims) == found


@pytest.mark.parametrize("name", ["scope", "scp"])
@pytest.mark.parametrize("value", [None, 5, True, {}, {"read": True}, ["read", 5], [["read"]], [None]])
def test_a_claim_of_another_type_is_no_token(name: str, value: object) -> None:
    with pytest.raises(CredentialError) as caught:
        granted(**{name: value})
    assert caught.value.reason == "invalid_credential"


def test_a_plan_asks_every_request_and_a_limit_those_that_it_is_about() -> None:
    plan = parse(
        """
plans:
  pro:
    required_scopes: [read, read]
    limits:
      all: {rate: 1/second}
      admin: {rate: 1/second, match: {path: /admin/*, required_scopes: [admin, write]}}
      deletes: {rate: 1/second, match: {methods: [DELETE], required_scopes: [delete]}}
""",
        "quotas.yaml",
    ).plans["pro"]
    for method, readings, needed in (
        ("GET", ("/",), {"read"}),
        ("GET", ("/admin/x",), {"read", "admin", "write"}),
        ("GET", ("/x", "/admin/x"), {"read", "admin", "write"}),
        ("DELETE", ("/x",), {"read", "delete"}),
        ("DELETE", ("*",), {"read", "admin", "write", "delete"}),
    ):
        assert plan.scopes_for(plan.skipped(method, readings)) == needed


@pytest.mark.parametrize(
    ("where", "path"), [("plan", "plans.pro.required_scopes"), ("limit", "plans.pro.limits.a.match.required_scopes")]
)
@pytest.mark.parametrize(
    "scope_list", ["[]", "['a b']", "['']", "[a, 'é']", f"[{'x' * 65}]", f"[{', '.join(map('s{}'.format, range(33)))}]"]
)
def test_a_wrong_list_is_a_fault(where: str, path: str, scope_list: str) -> None:
    ((found, message),) = faults(plan_of(scope_list, where))
    assert found == path
    assert "scope" in message or "at least 1" in message


@pytest.mark.parametrize(
    ("limit", "path"),
    [
        ("{rate: 1/second, match: {required_scopes: [a]}}", "plans.pro.limits.a.match"),
        (
            "{rate: 1/second, mode: shadow, match: {path: /a, required_scopes: [a]}}",
            "plans.pro.limits.a.match.required_scopes",
        ),
        ("{rate: 1/second, required_scopes: [a]}", "plans.pro.limits.a.required_scopes"),
        ("{rate: 1/second, match: {path: /a, required_scopes: a}}", "plans.pro.limits.a.match.required_scopes"),
        ("{rate: 1/second, match: {path: /a, required_scope: [a]}}", "plans.pro.limits.a.match.required_scope"),
    ],
)
def test_what_a_limit_cannot_ask(limit: str, path: str) -> None:
    ((found, _),) = faults(f"plans: {{pro: {{limits: {{a: {limit}}}}}}}")
    assert found == path


def test_a_cost_rule_asks_for_none() -> None:
    text = "plans: {pro: {limits: {a: {rate: 1/second}}, costs: [{path: /a, cost: 2, required_scopes: [a]}]}}"
    assert [path for path, _ in faults(text)] == ["plans.pro.costs.0.required_scopes"]
