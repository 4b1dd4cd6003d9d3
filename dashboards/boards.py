"""The dashboards as the files that Grafana is provisioned with; `python -m dashboards.boards` writes them."""

import sys
from pathlib import Path

from dashboards import client, overview, service
from dashboards.panels import text

FOLDER = Path(__file__).parent


def files() -> dict[Path, str]:
    """Where each dashboard is kept, and what is in it."""
    made = {"overview": overview.dashboard(), "client": client.dashboard(), "service": service.dashboard()}
    return {FOLDER / f"{name}.json": text(each) for name, each in made.items()}


def main() -> None:
    """Write them."""
    for path, content in files().items():
        path.write_text(content, "utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
