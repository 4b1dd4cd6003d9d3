"""Servers that are used together, once for each module that uses them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .valkeys import Watched, watched


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def group() -> Iterator[Watched]:
    """A master, its replica, and three sentinels."""
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder)) as made:
        yield made
