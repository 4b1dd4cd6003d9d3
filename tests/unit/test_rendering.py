"""Answers as HTTP, from answers made by hand: every field of every status, exactly."""

import json
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.answers import Answer, Reason
from quotas.decisions import Decision, Outcome, Standing
from quotas.faces import ENVOY, FACES, NGINX, Face
from quotas.holders import Client, Held, Identity, Status
from quotas.keys import Environment
from quotas.limits import Bucket, Limit, Mode, Quota, Window
from quotas.plans import HeaderStyle
from quotas.rendering import MAX_FIELDS, Response, check_response

SECOND = 1_000_000
AT_US = (datetime(2026, 3, 25, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
"""Seven days before the end of a month of 31."""

PER_SECOND = Limit("per-second", Bucket(count=5, period_us=SECOND, burst=10))
MONTHLY = Limit("monthly", Quota(units=10_000, window=Window.MONTH))
WEEK_US = 7 * 86_400 * SECOND
POLICY = '"per-second";q=10;w=2, "monthly";q=10000;w=2678400'
NOBODY = {"x-quotas-client": "", "x-quotas-plan": "", "x-quotas-subject": "", "cache-control": "no-store"}
ACME = {"x-quotas-client": "acme", "x-quotas-plan": "free", "x-quotas-subject": "key_1", "cache-control": "no-store"}
PROBLEM = "application/problem+json"
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
LARGEST = 10**15 - 1
"""The largest integer of a structured field: 15 digits."""


def identity(name: str = "acme") -> Identity:
    client = Client("cl_1", name, "free", Status.ACTIVE, 1, AT_US)
    return Identity(client, "key_1", "key_1", key=Held(b"", Environment.LIVE))


def refused(standing: Standing, reason: Reason = Reason.RATE_LIMITED) -> Answer:
    return Answer(reason, identity(), Decision.of(AT_US, [standing]))


def fields(response: Response) -> dict[str, str]:
    """Every header field; one line for each name, in lower case, and the length is that of the body."""
    names = [name for name, _ in response.headers]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(rb"[a-z0-9-]+", name) for name in names)
    assert all(re.fullmatch(rb"[\x20-\x7e]*", value) for _, value in response.headers)
    found = {name.decode(): value.decode() for name, value in response.headers}
    assert found.pop("content-length") == str(len(response.body))
    return found


def problem(response: Response) -> dict[str, object]:
    """The body of a refusal, once it agrees with its header fields."""
    body: dict[str, object] = json.loads(response.body)
    found = fields(response)
    assert found["content-type"] == PROBLEM
    assert body["status"] == response.status
    assert body["reason"] == found["x-quotas-reason"]
    assert body["title"]
    assert body["detail"]
    return body


class TestGolden:
    def test_allow_is_the_example_of_the_contract(self) -> None:
        standings = [Standing(PER_SECOND, 9, 200_000, 0), Standing(MONTHLY, 9_999, WEEK_US, 0)]
        response = check_response(Answer(None, identity(), Decision.of(AT_US, standings)))
        assert (response.status, response.body) == (200, b"")
        assert fields(response) == {
            **ACME,
            "ratelimit-policy": POLICY,
            "ratelimit": '"per-second";r=9;t=1, "monthly";r=9999;t=604800',
        }

    def test_throttled_is_429(self) -> None:
        standings = [Standing(PER_SECOND, 0, 2 * SECOND, 200_000), Standing(MONTHLY, 5, WEEK_US, 0)]
        response = check_response(Answer(Reason.RATE_LIMITED, identity(), Decision.of(AT_US, standings)))
        assert response.status == 429
        assert fields(response) == {
            **ACME,
            "ratelimit-policy": POLICY,
            "ratelimit": '"per-second";r=0;t=1, "monthly";r=5;t=604800',
            "retry-after": "1",
            "x-quotas-limit": "per-second",
            "x-quotas-reason": "rate_limited",
            "content-type": PROBLEM,
        }
        body = problem(response)
        assert body["type"] == QUOTA_EXCEEDED
        assert body["violated-policies"] == ["per-second"]

    def test_a_used_up_quota_is_429_until_its_window_ends(self) -> None:
        standings = [Standing(PER_SECOND, 10, 0, 0), Standing(MONTHLY, 0, WEEK_US, WEEK_US)]
        response = check_response(Answer(Reason.QUOTA_EXCEEDED, identity(), Decision.of(AT_US, standings)))
        assert response.status == 429
        assert fields(response) == {
            **ACME,
            "ratelimit-policy": POLICY,
            "ratelimit": '"per-second";r=10;t=0, "monthly";r=0;t=604800',
            "retry-after": "604800",
            "x-quotas-limit": "monthly",
            "x-quotas-reason": "quota_exceeded",
            "content-type": PROBLEM,
        }
        assert problem(response)["violated-policies"] == ["monthly"]

    def test_never_is_403_without_a_retry(self) -> None:
        response = check_response(refused(Standing(PER_SECOND, 10, 0, None), Reason.COST_EXCEEDS_LIMIT))
        assert response.status == 403
        assert fields(response) == {
            **ACME,
            "ratelimit-policy": '"per-second";q=10;w=2',
            "ratelimit": '"per-second";r=10;t=0',
            "x-quotas-limit": "per-second",
            "x-quotas-reason": "cost_exceeds_limit",
            "content-type": PROBLEM,
        }
        assert problem(response)["violated-policies"] == ["per-second"]

    def test_a_missing_credential_is_401_with_a_challenge_without_an_error(self) -> None:
        response = check_response(Answer(Reason.MISSING_CREDENTIAL))
        assert response.status == 401
        assert fields(response) == {
            **NOBODY,
            "x-quotas-reason": "missing_credential",
            "www-authenticate": 'Bearer realm="quotas"',
            "content-type": PROBLEM,
        }
        assert "violated-policies" not in problem(response)

    @pytest.mark.parametrize(
        ("reason", "code"),
        [
            (Reason.INVALID_CREDENTIAL, "invalid_token"),
            (Reason.EXPIRED_CREDENTIAL, "invalid_token"),
            (Reason.AMBIGUOUS_CREDENTIALS, "invalid_request"),
        ],
    )
    def test_a_bad_credential_is_401_with_an_error(self, reason: Reason, code: str) -> None:
        """RFC 6750, section 3.1: who sends two is not told that one of them is bad."""
        response = check_response(Answer(reason))
        found = fields(response)
        assert response.status == 401
        assert re.fullmatch(
            rf'Bearer realm="quotas", error="{code}", error_description="[ !#-\[\]-~]+"',
            found.pop("www-authenticate"),
        )
        assert found == {**NOBODY, "x-quotas-reason": reason.value, "content-type": PROBLEM}
        problem(response)

    @pytest.mark.parametrize("reason", [Reason.SUSPENDED_CLIENT, Reason.NO_PLAN])
    def test_a_client_that_may_not_is_403(self, reason: Reason) -> None:
        response = check_response(Answer(reason, identity()))
        assert response.status == 403
        assert fields(response) == {**ACME, "x-quotas-reason": reason.value, "content-type": PROBLEM}
        problem(response)

    @pytest.mark.parametrize(("who", "expected"), [(identity(), ACME), (None, NOBODY)], ids=["known", "unknown"])
    def test_an_outage_is_503_with_a_retry(self, who: Identity | None, expected: dict[str, str]) -> None:
        response = check_response(Answer(Reason.STORE_UNAVAILABLE, who))
        assert response.status == 503
        assert fields(response) == {
            **expected,
            "retry-after": "1",
            "x-quotas-reason": "store_unavailable",
            "content-type": PROBLEM,
        }
        assert "violated-policies" not in problem(response)

    def test_degraded_is_200_and_invents_no_limits(self) -> None:
        response = check_response(Answer(None, identity(), degraded=True))
        assert (response.status, response.body) == (200, b"")
        assert fields(response) == {**ACME, "x-quotas-degraded": "1"}

    def test_an_unreadable_request_is_400(self) -> None:
        response = check_response(Answer(Reason.INVALID_REQUEST))
        assert response.status == 400
        assert fields(response) == {**NOBODY, "x-quotas-reason": "invalid_request", "content-type": PROBLEM}
        problem(response)

    def test_a_plan_whose_limits_are_about_other_requests_shows_none(self) -> None:
        assert fields(check_response(Answer(None, identity(), Decision.of(AT_US, [])))) == ACME


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_answer_without_a_credential_in_it(reason: Reason) -> None:
    """Case C33: not even the part of a key that listings show."""
    response = check_response(Answer(reason, identity()))
    assert response.status >= 400
    problem(response)
    for secret in (b"SHOW", b"quotas_live", b"laptop", b"cl_1"):
        assert secret not in response.body
    assert all(b"SHOW" not in value for _, value in response.headers)


NGINX_TOLD = {200: 200, 400: 403, 401: 401, 403: 403, 429: 403, 503: 503}
"""What ngx_http_auth_request_module passes on as it is: 2xx, 401 and 403; 503 becomes its own error page."""


class TestProblems:
    def test_a_type_has_one_title_and_about_blank_has_the_status_phrase(self) -> None:
        """RFC 9457, sections 3.1.3 and 4.2.1."""
        titles: dict[object, set[object]] = {}
        for reason in Reason:
            response = check_response(Answer(reason, identity()))
            body = problem(response)
            titles.setdefault(body["type"], set()).add(body["title"])
            if body["type"] == "about:blank":
                assert body["title"] == HTTPStatus(response.status).phrase
        registered = "https://iana.org/assignments/http-problem-types#"
        typed = {f"{registered}quota-exceeded", f"{registered}temporary-reduced-capacity"}
        assert set(titles) == {"about:blank", *typed}
        assert all(len(titles[kind]) == 1 for kind in typed)

    @pytest.mark.parametrize("reason", list(Reason))
    def test_a_detail_is_one_or_two_plain_sentences(self, reason: Reason) -> None:
        detail = str(problem(check_response(Answer(reason, identity())))["detail"])
        assert re.fullmatch(r"[A-Z][^`_]+\.", detail)
        assert "  " not in detail

    def test_every_limit_that_refuses_is_named_and_no_other(self) -> None:
        shadow, over = Limit("shadow", MONTHLY.rule, Mode.SHADOW), Limit("over", MONTHLY.rule, Mode.OVERAGE)
        roomy = Limit("roomy", MONTHLY.rule)
        standings = [
            Standing(PER_SECOND, 0, 2 * SECOND, 200_000),
            Standing(roomy, 5, WEEK_US, 0),
            Standing(shadow, 0, WEEK_US, WEEK_US),
            Standing(over, -7, WEEK_US, WEEK_US),
            Standing(MONTHLY, 0, WEEK_US, WEEK_US),
        ]
        response = check_response(Answer(Reason.QUOTA_EXCEEDED, identity(), Decision.of(AT_US, standings)))
        body = problem(response)
        assert body["violated-policies"] == ["per-second", "monthly"]
        assert body["detail"] == (
            'The quota is used up. The limit "monthly" has no room for this request; try again in 604800 seconds.'
        )


class TestFaces:
    @pytest.mark.parametrize("reason", list(Reason))
    def test_nginx_gets_no_body_a_status_that_it_knows_and_the_true_one_beside_it(self, reason: Reason) -> None:
        answer = Answer(reason, identity())
        native, nginx = check_response(answer), check_response(answer, NGINX)
        expected = fields(native) | {"x-quotas-status": str(native.status)}
        del expected["content-type"]
        assert (nginx.status, nginx.body) == (NGINX_TOLD[native.status], b"")
        assert fields(nginx) == expected

    def test_nginx_throttled_is_403_with_everything_that_a_429_says(self) -> None:
        response = check_response(refused(Standing(PER_SECOND, 0, 2 * SECOND, 200_000)), NGINX)
        assert (response.status, response.body) == (403, b"")
        assert fields(response) == {
            **ACME,
            "ratelimit-policy": '"per-second";q=10;w=2',
            "ratelimit": '"per-second";r=0;t=1',
            "retry-after": "1",
            "x-quotas-limit": "per-second",
            "x-quotas-reason": "rate_limited",
            "x-quotas-status": "429",
        }

    @pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
    def test_allow_is_the_same_for_every_face_and_method(self, face: Face) -> None:
        answer = Answer(None, identity(), Decision.of(AT_US, [Standing(PER_SECOND, 9, 200_000, 0)]))
        assert check_response(answer, face, method="HEAD") == check_response(answer)

    @pytest.mark.parametrize("reason", list(Reason))
    def test_envoy_is_answered_like_any_program(self, reason: Reason) -> None:
        assert check_response(Answer(reason, identity()), ENVOY) == check_response(Answer(reason, identity()))

    @pytest.mark.parametrize("reason", list(Reason))
    def test_head_has_the_length_of_the_body_and_not_the_body(self, reason: Reason) -> None:
        get, head = (check_response(Answer(reason), method=method) for method in ("GET", "HEAD"))
        assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


class TestLegacy:
    def shown(self, answer: Answer, style: HeaderStyle = HeaderStyle.LEGACY) -> dict[str, str]:
        found = fields(check_response(answer, style=style))
        return {name: value for name, value in found.items() if "ratelimit" in name}

    def test_a_quota_resets_when_its_window_ends(self) -> None:
        standings = [Standing(PER_SECOND, 10, 0, 0), Standing(MONTHLY, 9_999, WEEK_US, 0)]
        assert self.shown(Answer(None, identity(), Decision.of(AT_US, standings))) == {
            "x-ratelimit-limit": "10000",
            "x-ratelimit-remaining": "9999",
            "x-ratelimit-reset": str((AT_US + WEEK_US) // SECOND),
        }

    def test_a_bucket_resets_when_it_is_full_rounded_up(self) -> None:
        answer = Answer(None, identity(), Decision.of(AT_US + 1, [Standing(PER_SECOND, 8, 400_000, 0)]))
        assert self.shown(answer) == {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "8",
            "x-ratelimit-reset": str(AT_US // SECOND + 1),
        }

    def test_who_has_the_least_left_of_its_size_is_shown(self) -> None:
        """5 of 10 is less than 6000 of 10000; of equals the plan's first is."""
        for left, limit in ((6_000, "10"), (4_999, "10000"), (5_000, "10")):
            standings = [Standing(PER_SECOND, 5, SECOND, 0), Standing(MONTHLY, left, WEEK_US, 0)]
            shown = self.shown(Answer(None, identity(), Decision.of(AT_US, standings)))
            assert shown["x-ratelimit-limit"] == limit

    def test_the_binding_limit_of_a_refusal_is_shown_before_any_other(self) -> None:
        standings = [Standing(PER_SECOND, 0, 2 * SECOND, 200_000), Standing(MONTHLY, 7, WEEK_US, WEEK_US)]
        shown = self.shown(Answer(Reason.QUOTA_EXCEEDED, identity(), Decision.of(AT_US, standings)))
        assert (shown["x-ratelimit-limit"], shown["x-ratelimit-remaining"]) == ("10000", "7")

    def test_what_never_refills_has_no_reset_and_overage_no_negative_number(self) -> None:
        never = Limit("never", Bucket(count=0, period_us=SECOND, burst=5))
        shown = self.shown(Answer(None, identity(), Decision.of(AT_US, [Standing(never, 2, None, 0)])))
        assert shown == {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "2"}
        over = Limit("over", MONTHLY.rule, Mode.OVERAGE)
        shown = self.shown(Answer(None, identity(), Decision.of(AT_US, [Standing(over, -7, WEEK_US, WEEK_US)])))
        assert shown["x-ratelimit-remaining"] == "0"

    @pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
    def test_both_is_both_on_every_face(self, face: Face) -> None:
        answer = refused(Standing(PER_SECOND, 0, 2 * SECOND, 200_000))
        parts = [fields(check_response(answer, face, style)) for style in HeaderStyle]
        draft, legacy, both = parts
        assert both == draft | legacy
        assert set(both) - set(draft) == {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
        assert set(both) - set(legacy) == {"ratelimit-policy", "ratelimit"}

    def test_a_shadow_limit_is_not_shown(self) -> None:
        shadow = Limit("shadow", MONTHLY.rule, Mode.SHADOW)
        assert self.shown(Answer(None, identity(), Decision.of(AT_US, [Standing(shadow, 0, WEEK_US, WEEK_US)]))) == {}


class TestBlock:
    """nginx answers 500 when a check's header block does not fit its buffer: 4 kB, status line included."""

    @staticmethod
    def block(response: Response) -> int:
        """Bytes of the status line and all fields, with the date that the server adds."""
        lines = [b"HTTP/1.1 429 Too Many Requests", b"date: Wed, 25 Nov 2026 03:07:50 GMT"]
        lines += [name + b": " + value for name, value in response.headers]
        return sum(len(line) + 2 for line in lines) + 2

    @staticmethod
    def names(count: int, longest: str = "n") -> list[str]:
        return [f"{number:02}".ljust(64, longest) for number in range(count)]

    def answer(self, names: list[str], left: list[int], client: str = "c" * 128) -> Answer:
        rules = [Quota(units=2**53 - 1, window=Window.YEAR)] * len(names)
        standings = [
            Standing(Limit(name, rule), units, WEEK_US, 0 if units else WEEK_US)
            for name, rule, units in zip(names, rules, left, strict=True)
        ]
        decision = Decision.of(AT_US, standings)
        return Answer(Reason.of(decision), identity(client), decision)

    @pytest.mark.parametrize("face", FACES, ids=lambda face: face.name)
    @pytest.mark.parametrize("longest", ["n", '"'], ids=["plain", "escaped"])
    def test_sixteen_limits_with_the_longest_names_stay_below_2_kb(self, face: Face, longest: str) -> None:
        names = self.names(16, longest)
        for left in ([2**53 - 1] * 16, [*range(2**52, 2**52 + 15), 0]):
            assert self.block(check_response(self.answer(names, left), face, HeaderStyle.BOTH)) < 2_048

    def test_with_the_longest_name_of_a_client_it_fits_the_buffer_of_nginx(self) -> None:
        answer = self.answer(self.names(16, '"'), [0] * 16, client="\U0001f680" * 128)
        assert self.block(check_response(answer, NGINX, HeaderStyle.BOTH)) < 4_096

    def test_what_is_left_out_is_the_farthest_from_refusing_and_the_plan_s_order_stays(self) -> None:
        names = self.names(16)
        left = [(number * 7 + 3) % 16 * 10**15 for number in range(16)]
        found = fields(check_response(self.answer(names, left)))
        told = [re.findall(r'"(\d\dn+)"', found[name]) for name in ("ratelimit-policy", "ratelimit")]
        nearest = sorted(names, key=lambda name: left[names.index(name)])[: len(told[0])]
        assert told[0] == told[1] == sorted(nearest)
        assert found["x-quotas-limit"] in nearest
        total = len(found["ratelimit-policy"]) + len(found["ratelimit"])
        per_limit = total // len(nearest)
        assert MAX_FIELDS - per_limit - 4 < total <= MAX_FIELDS

    def test_what_just_fits_is_told_and_a_little_more_is_not(self) -> None:
        names = [name[:64] for name in self.names(6)]
        whole = fields(check_response(self.answer(names, [5] * 6)))
        spare = MAX_FIELDS - len(whole["ratelimit-policy"]) - len(whole["ratelimit"])
        assert spare > 0
        last = "x" * (spare // 2 - len(', "";q=999999999999999;w=31536000, "";r=5;t=604800') // 2)
        for name, count in ((last, 7), (last + "xx", 6)):
            found = fields(check_response(self.answer([*names, name], [5] * 7)))
            assert found["ratelimit"].count(";r=") == found["ratelimit-policy"].count(";q=") == count


class TestSeconds:
    @pytest.mark.parametrize(
        ("wait_us", "seconds"),
        [
            (1, 1),
            (999_999, 1),
            (SECOND, 1),
            (SECOND + 1, 2),
            (30 * SECOND, 30),
            (30 * SECOND + 1, 31),
            (777_600 * SECOND, 777_600),
        ],
    )
    def test_retry_after_rounds_up_and_is_at_least_1(self, wait_us: int, seconds: int) -> None:
        response = check_response(refused(Standing(PER_SECOND, 0, 2 * SECOND, wait_us)))
        assert fields(response)["retry-after"] == str(seconds)
        assert re.search(rf"\b{seconds} seconds?\b", str(problem(response)["detail"]))

    @given(st.integers(1, 10**18))
    def test_whoever_waits_as_told_has_waited_long_enough(self, wait_us: int) -> None:
        told = int(fields(check_response(refused(Standing(PER_SECOND, 0, 2 * SECOND, wait_us))))["retry-after"])
        assert told >= 1
        assert 0 <= told * SECOND - wait_us < SECOND

    def test_retry_after_is_that_of_the_binding_limit(self) -> None:
        standings = [Standing(PER_SECOND, 0, 2 * SECOND, 200_000), Standing(MONTHLY, 0, WEEK_US, WEEK_US)]
        found = fields(check_response(Answer(Reason.QUOTA_EXCEEDED, identity(), Decision.of(AT_US, standings))))
        assert (found["retry-after"], found["x-quotas-limit"]) == ("604800", "monthly")

    @pytest.mark.parametrize(
        ("rule", "left", "reset_us", "policy", "limit"),
        [
            pytest.param(Bucket(count=5, period_us=SECOND, burst=10), 10, 0, "q=10;w=2", "r=10;t=0", id="full"),
            pytest.param(Bucket(count=1, period_us=SECOND, burst=1), 0, 1, "q=1;w=1", "r=0;t=1", id="nearly"),
            pytest.param(Bucket(count=10, period_us=SECOND, burst=3), 0, 300_000, "q=3;w=1", "r=0;t=1", id="fast"),
            pytest.param(
                Bucket(count=30, period_us=60 * SECOND, burst=30), 0, 60 * SECOND, "q=30;w=60", "r=0;t=2", id="slow"
            ),
            pytest.param(
                Bucket(count=13, period_us=7 * SECOND, burst=29), 0, 15_615_385, "q=29;w=16", "r=0;t=1", id="odd"
            ),
            pytest.param(Bucket(count=0, period_us=SECOND, burst=5), 2, None, "q=5", "r=2", id="no refill"),
            pytest.param(Quota(units=3, window=Window.DAY), 3, 86_400 * SECOND, "q=3;w=86400", "r=3;t=86400", id="day"),
            pytest.param(Quota(units=0, window=Window.HOUR), 0, 1, "q=0;w=3600", "r=0;t=1", id="hour, nearly over"),
        ],
    )
    def test_policy_and_what_is_left(
        self, rule: Bucket | Quota, left: int, reset_us: int | None, policy: str, limit: str
    ) -> None:
        """The windows of the quotas end at AT_US plus what is left of them."""
        at_us = AT_US if reset_us != 1 else AT_US - 1
        decision = Decision.of(at_us, [Standing(Limit("x", rule), left, reset_us, 0)])
        found = fields(check_response(Answer(None, identity(), decision)))
        assert (found["ratelimit-policy"], found["ratelimit"]) == (f'"x";{policy}', f'"x";{limit}')

    @pytest.mark.parametrize(
        ("at", "length_s"), [("2026-02-10", 2_419_200), ("2028-02-10", 2_505_600), ("2026-04-10", 2_592_000)]
    )
    def test_a_month_is_as_long_as_this_month_is(self, at: str, length_s: int) -> None:
        at_us = (datetime.fromisoformat(f"{at}T00:00Z") - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        left_us = (length_s - 9 * 86_400) * SECOND
        decision = Decision.of(at_us, [Standing(MONTHLY, 1, left_us, 0)])
        found = fields(check_response(Answer(None, identity(), decision)))
        assert found["ratelimit-policy"] == f'"monthly";q=10000;w={length_s}'

    def test_numbers_of_more_than_15_digits_are_clamped(self) -> None:
        huge = Limit("huge", Quota(units=2**53 - 1, window=Window.MONTH))
        decision = Decision.of(AT_US, [Standing(huge, 2**53 - 1, WEEK_US, 0)])
        found = fields(check_response(Answer(None, identity(), decision)))
        assert found["ratelimit-policy"] == f'"huge";q={LARGEST};w=2678400'
        assert found["ratelimit"] == f'"huge";r={LARGEST};t=604800'

    def test_overage_shows_0_and_no_negative_number(self) -> None:
        over = Limit("over", MONTHLY.rule, Mode.OVERAGE)
        decision = Decision.of(AT_US, [Standing(over, -7, WEEK_US, WEEK_US)])
        assert decision.outcome is Outcome.TAKEN
        response = check_response(Answer(None, identity(), decision))
        assert response.status == 200
        assert fields(response)["ratelimit"] == '"over";r=0;t=604800'


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("acme", "acme"),
            ("Acme & Co. (Berlin)", "Acme%20&%20Co.%20(Berlin)"),
            ("100%", "100%25"),
            ("%41", "%2541"),
            ("caf\u00e9", "caf%C3%A9"),
            ("a\r\nX-Quotas-Client: admin", "a%0D%0AX-Quotas-Client:%20admin"),
            ("\U0001f680", "%F0%9F%9A%80"),
            (" ", "%20"),
            ("a,b;c=d~", "a,b;c=d~"),
            ("\x00\x7f", "%00%7F"),
        ],
    )
    def test_a_client_s_name_is_percent_encoded_where_it_must_be(self, name: str, expected: str) -> None:
        assert fields(check_response(Answer(None, identity(name))))["x-quotas-client"] == expected

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128))
    def test_every_client_s_name_is_one_visible_word_that_decodes_back(self, name: str) -> None:
        value = fields(check_response(Answer(None, identity(name))))["x-quotas-client"]
        assert re.fullmatch(r"[\x21-\x7e]+", value)
        assert unquote(value, errors="strict") == name

    @pytest.mark.parametrize(
        ("name", "quoted"),
        [
            ('say "hi"', r'"say \"hi\""'),
            ("back\\slash", r'"back\\slash"'),
            ('\\"', r'"\\\""'),
            ("a, b;q=1", '"a, b;q=1"'),
            ("%41", '"%41"'),
        ],
    )
    def test_a_limit_s_name_is_quoted_as_a_structured_field(self, name: str, quoted: str) -> None:
        limit = Limit(name, PER_SECOND.rule)
        response = check_response(refused(Standing(limit, 0, 2 * SECOND, 200_000)))
        found = fields(response)
        assert found["ratelimit-policy"] == f"{quoted};q=10;w=2"
        assert found["ratelimit"] == f"{quoted};r=0;t=1"
        assert found["x-quotas-limit"] == name
        assert problem(response)["violated-policies"] == [name]

    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64))
    def test_a_quoted_name_reads_back(self, name: str) -> None:
        """RFC 9651, section 4.2.5."""
        answer = refused(Standing(Limit(name, PER_SECOND.rule), 0, 2 * SECOND, 200_000))
        match = re.fullmatch(r'"((?:[^"\\]|\\["\\])*)";r=0;t=1', fields(check_response(answer))["ratelimit"])
        assert match
        assert re.sub(r"\\(.)", r"\1", match[1]) == name

    def test_a_shadow_is_not_told_to_anyone(self) -> None:
        shadow = Limit("shadow", PER_SECOND.rule, Mode.SHADOW)
        standings = [Standing(shadow, 0, SECOND, SECOND), Standing(MONTHLY, 1, WEEK_US, 0)]
        response = check_response(Answer(None, identity(), Decision.of(AT_US, standings)))
        assert not any(b"shadow" in value for _, value in response.headers)
        assert fields(response)["ratelimit"] == '"monthly";r=1;t=604800'
        alone = check_response(Answer(None, identity(), Decision.of(AT_US, standings[:1])))
        assert fields(alone) == ACME


def test_what_is_said_again_is_written_once_for_each_who_and_where() -> None:
    """A decision that the store was not asked for is a worker's own, which it says to whoever goes on asking."""
    decision = Decision.of(AT_US, [Standing(PER_SECOND, 0, SECOND, 1)])
    again = Answer(Reason.RATE_LIMITED, identity()._replace(stays=True), decision)
    asked = again._replace(asked_s=(0.0, 1.0))
    written = check_response(again)
    assert check_response(again) is written
    assert check_response(asked) == written
    assert check_response(asked) is not written
    assert check_response(again._replace(identity=identity())) is not written
    others = [
        check_response(again, NGINX),
        check_response(again, ENVOY, HeaderStyle.BOTH),
        check_response(again, method="HEAD"),
        check_response(again._replace(identity=identity("bolt")._replace(stays=True))),
        check_response(again._replace(decision=Decision.of(AT_US, [Standing(PER_SECOND, 0, SECOND, 9 * SECOND)]))),
    ]
    assert len({(each.status, each.head, each.body) for each in (written, *others)}) == 6
