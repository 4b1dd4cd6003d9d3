"""The dashboard Overview: who uses what, who is throttled, and who soon will be."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.conventions import HERE, JOB, NAMED, REFUSED, TO_CLIENT, TO_SERVICE
from dashboards.panels import (
    COUNT,
    OUTCOMES,
    RED,
    REQUESTS,
    SHARE,
    YELLOW,
    Query,
    Row,
    bars,
    board,
    lines,
    link,
    number,
    variable,
)

OF_BAR = link(
    "Show this client",
    "",
    f"/d/quotas-client?{HERE}&var-client=${{__field.labels.client:percentencode}}&${{__url_time_range}}",
)

_CHECKS = 'quotas_checks_total{job="$job", plan=~"$plan"}'
_OF_LIMITS = f'quotas_checks_total{{job="$job", plan=~"$plan", {REFUSED}}}'
_NAMED = f'quotas_checks_total{{job="$job", plan=~"$plan", {NAMED}}}'
_REFUSED_NAMED = f'quotas_checks_total{{job="$job", plan=~"$plan", {NAMED}, {REFUSED}}}'


def dashboard() -> Dashboard:
    """Who uses what, and who is throttled."""
    plan = variable("plan", "Plan", "Plans to show.", 'label_values(quotas_checks_total{job="$job"}, plan)', every=True)
    about = "Who uses what, who is throttled, and who soon will be."
    links = [TO_CLIENT, TO_SERVICE]
    return board(
        "quotas-overview",
        "Quotas / Overview",
        about,
        variables=[JOB, plan],
        links=links,
        rows=[_now(), _traffic(), _clients(), _plans()],
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
                "Answers of every outcome, all instances together.",
                Query(f"sum(rate({_CHECKS}[$__rate_interval]))", "checks"),
            ),
            number(
                4,
                "Refused by a limit",
                SHARE,
                "Share of the checks in the chosen time that a rate, a quota or a cost above a limit refused.",
                Query(f"sum(increase({_OF_LIMITS}[$__range])) / sum(increase({_CHECKS}[$__range]))", "refused"),
                steps=[(0.1, YELLOW), (0.3, RED)],
            ),
            number(
                4,
                "Without a valid credential",
                SHARE,
                "Share of the checks in the chosen time that were answered 401. They have no plan, so the choice of "
                "plans does not matter here.",
                Query(
                    'sum(increase(quotas_checks_total{job="$job", outcome="unauthenticated"}[$__range])) '
                    '/ sum(increase(quotas_checks_total{job="$job"}[$__range]))',
                    "unauthenticated",
                ),
                steps=[(0.1, YELLOW), (0.5, RED)],
            ),
            number(
                4,
                "Clients at work",
                COUNT,
                "Clients that asked in the chosen time, of those with series of their own.",
                Query(f"count(sum by (client) (increase({_NAMED}[$__range])) > 0)", "clients"),
            ),
            number(
                4,
                "Shadow refusals",
                COUNT,
                "Checks in the chosen time that limits in shadow mode would have refused.",
                Query(
                    'round(sum(increase(quotas_shadow_refused_total{job="$job", plan=~"$plan"}[$__range])))',
                    "would be refused",
                ),
            ),
            number(
                4,
                "Limits used to 80 %",
                COUNT,
                "Limits of single clients of which at most a fifth is left now, whatever the plan.",
                Query('count(max by (client, limit) (quotas_limit_used_ratio{job="$job"}) >= 0.8)', "nearly used up"),
                steps=[(1, YELLOW)],
            ),
        ],
    )


def _traffic() -> Row:
    """Outcomes over time."""
    return Row(
        "Traffic",
        9,
        [
            lines(
                12,
                "Checks by outcome",
                REQUESTS,
                "What checks were answered. `error` is what could not be read or decided, see the dashboard Service.",
                Query(f"sum by (outcome) (rate({_CHECKS}[$__rate_interval]))", "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
            ),
            lines(
                12,
                "Share refused by a limit, by plan",
                SHARE,
                "Refused for a rate, a quota or a cost above a limit. A plan that often refuses is too small for its "
                "clients, or one of them is out of hand.",
                Query(
                    f'sum by (plan) (rate(quotas_checks_total{{job="$job", plan=~"$plan", plan!="", {REFUSED}}}'
                    "[$__rate_interval])) / sum by (plan) "
                    '(rate(quotas_checks_total{job="$job", plan=~"$plan", plan!=""}[$__rate_interval]))',
                    "{{plan}}",
                ),
                most=1,
            ),
        ],
    )


def _clients() -> Row:
    """The clients to look at."""
    return Row(
        "Clients, in the chosen time",
        10,
        [
            bars(
                8,
                "Busiest",
                COUNT,
                "Most checks in the chosen time. A click leads to the client.",
                Query(f"topk(10, round(sum by (client) (increase({_NAMED}[$__range]))) > 0)", "{{client}}"),
                link=OF_BAR,
            ),
            bars(
                8,
                "Most throttled",
                COUNT,
                "Most checks refused by a limit in the chosen time. A click leads to the client.",
                Query(f"topk(10, round(sum by (client) (increase({_REFUSED_NAMED}[$__range]))) > 0)", "{{client}}"),
                link=OF_BAR,
            ),
            bars(
                8,
                "Nearest to their limits, now",
                SHARE,
                "What is used of each limit: 0 % is untouched, at 100 % nothing is left, and a quota in overage mode "
                "goes above. A bucket fills again by itself, a quota when its window ends.",
                Query(
                    'topk(10, max by (client, limit) (quotas_limit_used_ratio{job="$job"}) > 0)',
                    "{{client}} · {{limit}}",
                ),
                steps=[(0.8, YELLOW), (1, RED)],
                most=1,
                link=OF_BAR,
            ),
        ],
    )


def _plans() -> Row:
    """What plans take, would refuse, and let pass above a quota."""
    return Row(
        "Plans",
        8,
        [
            lines(
                8,
                "Units by plan",
                "cps",
                "Units taken by allowed checks per second: their cost, 1 where a plan says nothing else.",
                Query(
                    'sum by (plan) (rate(quotas_units_total{job="$job", plan=~"$plan", plan!=""}[$__rate_interval]))',
                    "{{plan}}",
                ),
                stacked=True,
            ),
            lines(
                8,
                "Shadow refusals",
                REQUESTS,
                "Checks that a limit in shadow mode would have refused: what enforcing it would do.",
                Query(
                    "sum by (plan, limit) "
                    '(rate(quotas_shadow_refused_total{job="$job", plan=~"$plan"}[$__rate_interval]))',
                    "{{plan}} · {{limit}}",
                ),
            ),
            lines(
                8,
                "Overage",
                "cps",
                "Units per second past quotas in overage mode.",
                Query(
                    "sum by (plan, limit) "
                    '(rate(quotas_overage_units_total{job="$job", plan=~"$plan"}[$__rate_interval]))',
                    "{{plan}} · {{limit}}",
                ),
            ),
        ],
    )
