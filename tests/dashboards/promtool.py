"""Prometheus and its promtool, which Debian has as the package `prometheus`: the tests run the real ones."""

import os
import shutil

import pytest

MISSING = "prometheus and promtool are not installed (Debian: apt-get install prometheus): THE RULES ARE NOT TESTED"


def find(program: str) -> str:
    """The program's path. Without it the test is skipped, in CI it fails."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return path
