"""Each program finds every printed configuration good, whatever the options."""

import subprocess
from pathlib import Path

import pytest
from e2e.processes import PATIENCE_S

from quotas.gateway import Gateway

from .programs import CHECKS, VARIANTS, configure, environment

ADDRESSES = [
    ("--upstream", "http://[::1]:3000", "--check", "http://[::1]", "--listen", "[::]:8000"),
    ("--upstream", "http://localhost/", "--check", "http://localhost:1", "--listen", "0.0.0.0:65535"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "".join(variant) or "default")
def test_a_printed_configuration_is_valid(gateway: Gateway, variant: tuple[str, ...], tmp_path: Path) -> None:
    assert_valid(gateway, tmp_path, *variant)


@pytest.mark.parametrize("addresses", ADDRESSES, ids=["IPv6", "names"])
def test_addresses_of_every_kind_are(gateway: Gateway, addresses: tuple[str, ...], tmp_path: Path) -> None:
    assert_valid(gateway, tmp_path, *addresses)


def test_a_broken_one_is_not(gateway: Gateway, tmp_path: Path) -> None:
    """Or the tests above could not fail."""
    file = configure(gateway, tmp_path)
    file.write_text(file.read_text("utf-8") + "\n}", "utf-8")
    assert checked(gateway, tmp_path, file).returncode != 0


def assert_valid(gateway: Gateway, folder: Path, *options: str) -> None:
    done = checked(gateway, folder, configure(gateway, folder, *options))
    assert done.returncode == 0, done.stdout


def checked(gateway: Gateway, folder: Path, file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        CHECKS[gateway](folder, file),
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
