"""What a check is answered, as a value: allowed, or why not. A refusal is one, and so is an outage."""

from enum import Enum
from typing import NamedTuple

from quotas import scopes
from quotas.decisions import Decision, Outcome
from quotas.holders import Identity
from quotas.limits import Quota


class Reason(Enum):
    """Why a check was not allowed: the machine code of the answer."""

    INVALID_REQUEST = "invalid_request"
    MISSING_CREDENTIAL = "missing_credential"
    INVALID_CREDENTIAL = "invalid_credential"
    EXPIRED_CREDENTIAL = "expired_credential"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    SUSPENDED_CLIENT = "suspended_client"
    NO_PLAN = "no_plan"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    COST_EXCEEDS_LIMIT = "cost_exceeds_limit"
    STORE_UNAVAILABLE = "store_unavailable"

    @classmethod
    def of(cls, decision: Decision) -> "Reason | None":
        """Why a decision refuses; None when it allows."""
        if decision.allowed:
            return None
        if decision.outcome is Outcome.NEVER:
            return cls.COST_EXCEEDS_LIMIT
        assert decision.binding is not None, "a refusal names its limit"
        return cls.QUOTA_EXCEEDED if isinstance(decision.binding.rule, Quota) else cls.RATE_LIMITED


class Answer(NamedTuple):  # A tuple: each check makes one, at a third of a dataclass's cost.
    """What a check is answered. `reason` None is allowed; identity is None where it is not known, or was not asked for.

    `decision` is None where no limit was asked. `degraded` says that the store was not asked and the plan lets
    such checks pass. `required_scopes` are told when one of them is missing. `asked_s` is when the store was asked and
    when it had answered, by the timer of the checks; None where it did not.
    """

    reason: Reason | None
    identity: Identity | None = None
    decision: Decision | None = None
    degraded: bool = False
    required_scopes: frozenset[str] = scopes.NONE
    asked_s: tuple[float, float] | None = None

    @property
    def outcome(self) -> str:
        """The answer as the metrics' label `outcome`."""
        return outcome_of(self.reason)


def lacking(identity: Identity, required: frozenset[str]) -> Answer:
    """The answer to who lacks a scope; to whom nobody knows, a credential would help."""
    reason = Reason.INSUFFICIENT_SCOPE if identity.client.name else Reason.MISSING_CREDENTIAL
    return Answer(reason, identity, required_scopes=required)


_OUTCOMES = {
    None: "allowed",
    Reason.RATE_LIMITED: "rate_limited",
    Reason.QUOTA_EXCEEDED: "quota_exceeded",
    Reason.COST_EXCEEDS_LIMIT: "never",
    Reason.SUSPENDED_CLIENT: "forbidden",
    Reason.NO_PLAN: "forbidden",
    Reason.INSUFFICIENT_SCOPE: "forbidden",
    Reason.INVALID_REQUEST: "error",
    Reason.STORE_UNAVAILABLE: "error",
}


def outcome_of(reason: Reason | None) -> str:
    """The metrics' label `outcome` of a reason; None is allowed."""
    return _OUTCOMES.get(reason, "unauthenticated")
