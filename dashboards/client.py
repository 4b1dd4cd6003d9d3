"""The dashboard Client: one client's traffic and refusals, and where its quotas are heading."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.conventions import BUDGET_S, JOB, QUANTILES, TO_OVERVIEW, TO_SERVICE, quantile
from dashboards.panels import (
    BOTH,
    COUNT,
    DATE,
    OUTCOMES,
    RED,
    REQUESTS,
    SECONDS,
    SHARE,
    YELLOW,
    Query,
    Row,
    bars,
    board,
    choice,
    lines,
    number,
    variable,
)

_CHECKS = 'quotas_checks_total{job="$job", client="$client"}'
_REFUSALS = 'quotas_checks_total{job="$job", client="$client", outcome!="allowed"}'
_USED = 'quotas_limit_used_ratio{job="$job", client="$client", limit=~"$limit"}'
# A quota's use only rises within a window, a bucket's goes up and down. What fell more often is a bucket, or a quota of
# which several windows are in the trend: a straight line through it means nothing.
_STEADY = f"resets({_USED}[$trend]) <= 2"
_RISING = f"(deriv({_USED}[$trend]) > 0 and {_STEADY})"


def dashboard() -> Dashboard:
    """One client: its traffic, its refusals, and where its quotas are heading."""
    chosen = variable(
        "client", "Client", "Its name.", 'label_values(quotas_checks_total{job="$job", client!="unknown"}, client)'
    )
    of = 'label_values(quotas_limit_used_ratio{job="$job", client="$client"}, limit)'
    limit = variable("limit", "Limit", "Limits to show.", of, every=True)
    trend = choice("trend", "Trend", "How far back a trend is looked for.", ["1h", "6h", "1d", "7d"], "6h")
    about = "One client: what it asks, what it is refused, and when its quotas will be used up."
    variables = [JOB, chosen, limit, trend]
    links = [TO_OVERVIEW, TO_SERVICE]
    return board(
        "quotas-client",
        "Quotas / Client",
        about,
        variables=variables,
        links=links,
        rows=[_now(), _traffic(), _limits(), _heading()],
    )


def _now() -> Row:
    """What a glance should tell."""
    return Row(
        "Now",
        4,
        [
            number(
                4,
                "Checks per second",
                REQUESTS,
                "Answers of every outcome to this client.",
                Query(f"sum(rate({_CHECKS}[$__rate_interval]))", "checks"),
            ),
            number(
                4,
                "Checks",
                COUNT,
                "Answers of every outcome in the chosen time.",
                Query(f"round(sum(increase({_CHECKS}[$__range])))", "checks"),
            ),
            number(
                4,
                "Refused",
                SHARE,
                "Share of this client's checks in the chosen time that were not allowed, for whatever reason.",
                Query(f"sum(increase({_REFUSALS}[$__range])) / sum(increase({_CHECKS}[$__range]))", "refused"),
                steps=[(0.1, YELLOW), (0.3, RED)],
            ),
            number(
                4,
                "Units",
                COUNT,
                "Units that allowed checks took in the chosen time.",
                Query('round(sum(increase(quotas_units_total{job="$job", client="$client"}[$__range])))', "units"),
            ),
            number(
                4,
                "Most used limit",
                SHARE,
                "What is used of the limit of which least is left; 100 % is all of it.",
                Query(f"max({_USED})", "used"),
                steps=[(0.8, YELLOW), (1, RED)],
                empty="unknown",
            ),
            number(
                4,
                "Plan",
                COUNT,
                "The plan on which this client asked in the chosen time, with the checks on it.",
                Query(f"round(sum by (plan) (increase({_CHECKS}[$__range]))) > 0", "{{plan}}"),
                shows=BOTH,
                empty="no checks",
            ),
        ],
    )


def _traffic() -> Row:
    """Outcomes and latency over time."""
    return Row(
        "Traffic",
        9,
        [
            lines(
                12,
                "Checks by outcome",
                REQUESTS,
                "What this client's checks were answered.",
                Query(f"sum by (outcome) (rate({_CHECKS}[$__rate_interval]))", "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
            ),
            lines(
                6,
                "Refusals",
                REQUESTS,
                "Answers that were not `allowed`, by outcome: `rate_limited` passes by waiting a moment, "
                "`quota_exceeded` when the window ends, `never` costs more than a limit can hold, `forbidden` is a "
                "suspended client or one without a plan.",
                Query(f"sum by (outcome) (rate({_REFUSALS}[$__rate_interval]))", "{{outcome}}"),
                colours=OUTCOMES,
            ),
            lines(
                6,
                "Latency of all checks",
                SECONDS,
                "What every client waits for an answer: durations are not counted for each client on its own.",
                *(
                    Query(quantile(share, "quotas_check_duration_seconds", 'job="$job"'), name)
                    for name, share in QUANTILES.items()
                ),
                steps=[(BUDGET_S, RED)],
            ),
        ],
    )


def _limits() -> Row:
    """What is used and left of each limit over time."""
    return Row(
        "Limits",
        9,
        [
            lines(
                12,
                "Used of each limit",
                SHARE,
                "0 % is untouched, at 100 % nothing is left. Quotas rise until their window ends, buckets go up and "
                "down.",
                Query(f"max by (limit) ({_USED})", "{{limit}}"),
                steps=[(0.8, YELLOW), (1, RED)],
            ),
            lines(
                12,
                "Left of each quota, and where it is heading",
                SHARE,
                "Solid: what is left. Dashed: what would be left a day later if the use went on as in the time chosen "
                "as trend. Only limits that rise steadily are here: no buckets, and no quotas of which several windows "
                "are in that time.",
                Query(f"clamp_min(1 - max by (limit) ({_USED} and {_STEADY}), 0)", "{{limit}}"),
                Query(
                    f"clamp(1 - max by (limit) (predict_linear({_USED}[$trend], 86400) and {_RISING}), 0, 1)",
                    "{{limit}}, a day later",
                ),
                most=1,
                dashed="/a day later$/",
            ),
        ],
    )


def _heading() -> Row:
    """What is used now, and when it will be all."""
    return Row(
        "Where it is heading",
        6,
        [
            bars(
                12,
                "Used now",
                SHARE,
                "What is used of each limit now; a quota in overage mode goes above 100 %.",
                Query(f"sort_desc(max by (limit) ({_USED}))", "{{limit}}"),
                steps=[(0.8, YELLOW), (1, RED)],
                most=1,
            ),
            number(
                12,
                "Used up on",
                DATE,
                "When each quota will be used up if the use goes on as in the time chosen as trend, unless its window "
                "ends before. Empty while nothing rises, and for what is more than a year away.",
                Query(
                    f"(time() + (max by (limit) ((1 - {_USED}) / {_RISING}) >= 0 < 31536000)) * 1000",
                    "{{limit}}",
                ),
                shows=BOTH,
                empty="not within a year",
            ),
        ],
    )
