"""A terminal for each test, on the run's private store."""

from pathlib import Path

import pytest

from .terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path, redis_url: str) -> Terminal:
    return Terminal(tmp_path, redis_url)
