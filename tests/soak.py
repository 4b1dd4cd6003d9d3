"""How much is tried: enough for every commit, or what finds the rare and the slowly growing (`make soak`)."""

from hypothesis import settings

SOAKS = settings.get_current_profile_name() == "soak"
EXAMPLES = 100_000 if SOAKS else 2_500
"""Requests that are made up."""

CREDENTIALS = 1_000_000 if SOAKS else 20_000
"""Distinct credentials of a kind."""
