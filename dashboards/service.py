"""The dashboard Service: whether the service itself is healthy."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.conventions import BUDGET_S, JOB, QUANTILES, TO_CLIENT, TO_OVERVIEW, quantile
from dashboards.panels import (
    BOTH,
    COUNT,
    DATE,
    GREEN,
    NAME,
    RED,
    REQUESTS,
    SECONDS,
    SHARE,
    YELLOW,
    YES_NO,
    Query,
    Row,
    board,
    heat_of,
    lines,
    number,
    variable,
)

_AT = 'job="$job", instance=~"$instance"'


def dashboard() -> Dashboard:
    """Load, latency, the store, key sets, reloads and workers."""
    of = 'label_values(quotas_build_info{job="$job"}, instance)'
    instance = variable("instance", "Instance", "Instances to show.", of, every=True)
    about = "The service itself: load, latency, the store, key sets, reloads and workers."
    links = [TO_OVERVIEW, TO_CLIENT]
    return board(
        "quotas-service",
        "Quotas / Service",
        about,
        variables=[JOB, instance],
        links=links,
        rows=[_now(), _checks(), _store(), _around()],
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
                "Answers of the chosen instances.",
                Query(f"sum(rate(quotas_check_duration_seconds_count{{{_AT}}}[$__rate_interval]))", "checks"),
            ),
            number(
                4,
                "99 of 100 answered within",
                SECONDS,
                "From a check's headers to its answer, over the last five minutes.",
                Query(
                    f"histogram_quantile(0.99, sum by (le) (rate(quotas_check_duration_seconds_bucket{{{_AT}}}[5m])))",
                    "p99",
                ),
                steps=[(BUDGET_S / 2, YELLOW), (BUDGET_S, RED)],
                empty="no checks",
            ),
            number(
                4,
                "Checks without the store",
                COUNT,
                "Checks in the chosen time that the store did not answer, and that went by `on_store_error`.",
                Query(f"round(sum(increase(quotas_store_errors_total{{{_AT}}}[$__range])))", "errors"),
                steps=[(1, RED)],
            ),
            number(
                4,
                "Workers",
                COUNT,
                "Worker processes that are alive, all chosen instances together.",
                Query(f"sum(quotas_workers{{{_AT}}})", "workers"),
                empty="none",
            ),
            number(
                4,
                "Plan file in force",
                YES_NO,
                "No while the newest plan file cannot be used by an instance, which then goes on with the one before.",
                Query(f"min(quotas_config_last_reload_successful{{{_AT}}})", "newest in force"),
                steps=[(1, GREEN)],
                base=RED,
                empty="unknown",
            ),
            number(
                4,
                "Version",
                COUNT,
                "The version that runs; several while instances are replaced one by one.",
                Query(f"count by (version) (quotas_build_info{{{_AT}}})", "{{version}}"),
                shows=NAME,
                empty="none",
            ),
        ],
    )


def _checks() -> Row:
    """Load and latency."""
    return Row(
        "Checks",
        8,
        [
            lines(
                6,
                "Rate by instance",
                REQUESTS,
                "Checks answered by each instance, its workers together.",
                Query(
                    f"sum by (instance) (rate(quotas_check_duration_seconds_count{{{_AT}}}[$__rate_interval]))",
                    "{{instance}}",
                ),
                stacked=True,
            ),
            lines(
                6,
                "Refused from memory",
                REQUESTS,
                "Checks of clients that went on asking although they were refused: their workers answered them without "
                "asking the store. They are in all other numbers of checks too.",
                Query(
                    f"sum by (instance) (rate(quotas_refusals_remembered_total{{{_AT}}}[$__rate_interval]))",
                    "{{instance}}",
                ),
                stacked=True,
            ),
            lines(
                6,
                "Latency",
                SECONDS,
                "From a check's headers to its answer, the store included. The line is what the alert "
                "QuotasChecksSlow allows.",
                *(
                    Query(quantile(share, "quotas_check_duration_seconds", _AT), name)
                    for name, share in QUANTILES.items()
                ),
                steps=[(BUDGET_S, RED)],
            ),
            heat_of(
                6,
                "Latency, all of it",
                SECONDS,
                "How many checks took how long.",
                f"sum by (le) (increase(quotas_check_duration_seconds_bucket{{{_AT}}}[$__rate_interval]))",
            ),
        ],
    )


def _store() -> Row:
    """The store, and answers without it."""
    return Row(
        "Store",
        8,
        [
            lines(
                8,
                "Time of script calls",
                SECONDS,
                "From a script call to its reply, waiting in line included: 99 of 100 and half of them.",
                *(
                    Query(quantile(share, "quotas_store_duration_seconds", _AT, ", script"), f"{{{{script}}}}, {name}")
                    for name, share in QUANTILES.items()
                    if name != "9 of 10"
                ),
            ),
            lines(
                8,
                "Checks that the store did not answer",
                REQUESTS,
                "By kind: `timeout` is an answer later than QUOTAS_STORE_TIMEOUT_MS, `connect` and `lost` a store that "
                "is not reached, `overload` a worker with too many checks under way, `reply` an answer that means an "
                "error, `jwks` an issuer whose keys cannot be had.",
                Query(f"sum by (kind) (rate(quotas_store_errors_total{{{_AT}}}[$__rate_interval]))", "{{kind}}"),
            ),
            lines(
                8,
                "Degraded answers",
                REQUESTS,
                "Checks answered by the plan's `on_store_error`: `allow` let them pass uncounted, `deny` answered 503. "
                "And refusals that workers could not keep for the usage history until the store was back.",
                Query(f"sum by (mode) (rate(quotas_degraded_total{{{_AT}}}[$__rate_interval]))", "{{mode}}"),
                Query(f"sum(rate(quotas_refusals_lost_total{{{_AT}}}[$__rate_interval]))", "in no history"),
                stacked=True,
                colours={"allow": YELLOW, "deny": RED},
            ),
        ],
    )


def _around() -> Row:
    """What stands around a check: key sets, workers, the plan file, alerts."""
    return Row(
        "Around it",
        8,
        [
            lines(
                8,
                "Key sets of issuers",
                COUNT,
                "Refreshes by result: `loaded` is a good set, `unknown_kid` a token refused without asking, everything "
                "else why a set could not be had. The last good set is used for a day.",
                Query(
                    f"sum by (issuer, result) (increase(quotas_jwks_refresh_total{{{_AT}}}[$__rate_interval]))",
                    "{{issuer}} · {{result}}",
                ),
            ),
            lines(
                8,
                "Workers and plan file",
                COUNT,
                "Workers alive on each instance, and 1 or 0 for whether its newest plan file is in force.",
                Query(f"max by (instance) (quotas_workers{{{_AT}}})", "{{instance}}, workers"),
                Query(
                    f"min by (instance) (quotas_config_last_reload_successful{{{_AT}}})",
                    "{{instance}}, plan file in force",
                ),
                dashed="/in force$/",
            ),
            number(
                8,
                "Firing alerts",
                COUNT,
                "Alerts of dashboards/rules that fire now, with the number of their causes. What each means and what "
                "to do is in dashboards/README.md.",
                Query('count by (alertname) (ALERTS{alertname=~"Quotas.*", alertstate="firing"})', "{{alertname}}"),
                steps=[(1, RED)],
                shows=BOTH,
                empty="none",
            ),
            number(
                8,
                "Plan file in force since",
                DATE,
                "When the plan file of an instance was last put in force.",
                Query(
                    f"max by (instance) (quotas_config_last_reload_success_timestamp_seconds{{{_AT}}}) * 1000",
                    "{{instance}}",
                ),
                shows=BOTH,
                empty="unknown",
            ),
            lines(
                8,
                "Checks of clients without series of their own",
                SHARE,
                "Share of the checks that count as `other`, because busier clients have the series.",
                Query(
                    f'sum(rate(quotas_checks_total{{{_AT}, client="other"}}[$__rate_interval])) '
                    f"/ sum(rate(quotas_checks_total{{{_AT}}}[$__rate_interval]))",
                    "other",
                ),
                most=1,
            ),
            lines(
                8,
                "Series taken over",
                COUNT,
                "Clients that a busier one took the series from. If there are many, raise `metrics.max_clients`.",
                Query(f"sum(increase(quotas_clients_evicted_total{{{_AT}}}[$__rate_interval]))", "clients"),
            ),
        ],
    )
