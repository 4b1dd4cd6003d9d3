"""Every test of the take holds for both of its roads: the short one where it can be gone, and the long one alone."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from quotas import scripts
from quotas.scripts import LONG_TAKE


@pytest.fixture(autouse=True, scope="module", params=["both roads", "long road"])
def roads(request: pytest.FixtureRequest) -> Iterator[None]:
    """For each module by itself: what a session patches stays patched for the tests of other folders."""
    if request.param == "both roads":
        yield
        return
    with patch.object(scripts, "TAKE", LONG_TAKE):
        yield
