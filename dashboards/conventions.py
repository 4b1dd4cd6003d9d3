"""What the queries of all dashboards have in common.

Counters are read with `rate` over `$__rate_interval` in graphs and with `increase` over `$__range` in numbers of the
chosen time. `quotas_limit_used_ratio` is the same on every instance, so its `max` is taken; everything else is summed
over instances.
"""

from collections.abc import Mapping

from dashboards.panels import link, variable

BUDGET_S = 0.01
"""What 99 of 100 checks should stay below; the alert QuotasChecksSlow has the same."""

QUANTILES: Mapping[str, float] = {"half": 0.5, "9 of 10": 0.9, "99 of 100": 0.99}
"""Legends of latency, as shares of the checks that were answered at least as fast."""

REFUSED = 'outcome=~"rate_limited|quota_exceeded|never"'
"""Outcomes of checks that a limit refused."""

NAMED = 'client!~"unknown|other"'
"""Clients that have series of their own."""

JOB = variable("job", "Job", "The scrape job of the service.", "label_values(quotas_build_info, job)")
HERE = "var-datasource=${datasource}&var-job=${job}"
"""What a link to another dashboard carries along."""

TO_OVERVIEW = link("Overview", "All clients", f"/d/quotas-overview?{HERE}")
TO_CLIENT = link("Client", "One client", f"/d/quotas-client?{HERE}")
TO_SERVICE = link("Service", "The service itself", f"/d/quotas-service?{HERE}")


def quantile(share: float, histogram: str, labels: str, by: str = "") -> str:
    """The duration in seconds within which this share of a histogram's observations fell. `by` is ", label"."""
    rate = f"rate({histogram}_bucket{{{labels}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le{by}) ({rate}))"
