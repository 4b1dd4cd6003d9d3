"""What the documents say exists, and what exists is in the documents."""

import re
from pathlib import Path

import pytest
import typer

from quotas import cli, plan_files, settings
from quotas.metrics import Metrics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
DOCUMENTS = sorted(ROOT.glob("*.md"))


def commands() -> list[str]:
    """Every command as it is typed, such as `keys create`."""
    root = typer.main.get_command(cli.app)
    found = []
    for name, command in root.commands.items():  # type: ignore[attr-defined] # A group, as typer makes it.
        inner = getattr(command, "commands", None)
        found += [name] if inner is None else [f"{name} {each}" for each in inner]
    return found


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    documented = set(re.findall(r"^\| `(QUOTAS_[A-Z_]+)` \|", README, re.MULTILINE))
    assert documented == {f"QUOTAS_{name}" for name in settings._READERS}  # noqa: SLF001 # The list of them all.


def test_every_metric_is_in_the_readme_and_no_other() -> None:
    documented = set(re.findall(r"^\| `(quotas_[a-z_]+)` \|", README, re.MULTILINE))
    exposed = set(re.findall(r"^# HELP (\S+)", Metrics().exposition(used={}), re.MULTILINE))
    assert documented == exposed


def test_every_command_that_the_readme_shows_exists() -> None:
    known = commands()
    shown = re.findall(r"^\$ quotas (.+)$", README, re.MULTILINE)
    assert len(shown) >= 8
    for line in shown:
        assert any(line == name or line.startswith(name + " ") for name in known), line


@pytest.mark.parametrize(
    "name",
    ["serve", "replay", "explain", "refund", "audit", "clients", "keys", "check-config", "gateway", "usage", "doctor"],
)
def test_every_command_is_told_of(name: str) -> None:
    assert any(each.split()[0] == name for each in commands())
    assert f"quotas {name}" in README


def test_the_readme_s_plans_are_plans() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    config = plan_files.parse(block, "README.md")
    assert set(config.plans) == {"free", "pro"}
    assert list(config.issuers) == ["https://id.example.com"]


def test_the_map_has_every_file() -> None:
    rows = re.findall(r"^\| [a-z ]+ \| ((?:`[a-z_]+` ?)+)\|", ARCHITECTURE, re.MULTILINE)
    mapped = re.findall(r"`([a-z_]+)`", " ".join(rows))
    files = {path.stem for path in (ROOT / "quotas").glob("*.py")} - {"__init__", "__main__"}
    assert sorted(mapped) == sorted(files)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
        assert (ROOT / target).exists(), target
