"""A real Prometheus on loopback that scrapes each second, with the rules of this folder, and what it answers."""

import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtests.processes import Running, running

PATIENCE_S = 60.0
"""A bound for what should take a moment."""

RULES = Path(__file__).with_name("rules")

Samples = list[tuple[float, float]]
"""(epoch seconds, value), in the order of time."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: Mapping[str, str]
    samples: Samples


class QueryError(Exception):
    """Prometheus refused a query; the message is what it said."""


def program() -> str:
    """Its path. Raises FileNotFoundError when it is not installed."""
    found = shutil.which("prometheus")
    if found is None:
        raise FileNotFoundError("prometheus is not installed (Debian: apt-get install prometheus)")
    return found


@contextmanager
def prometheus(folder: Path, job: str, target: str) -> Iterator["Prometheus"]:
    """Scrapes `target` (host:port) each second as the job, until the context ends; it has done so once already.

    Its data stay in `folder`. Raises LoadTestError when it does not start, FileNotFoundError when it is not installed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yml")],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    command = [program(), f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (
        running("prometheus", command, folder, {}) as started,
        httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S, trust_env=False) as http,
    ):
        found = Prometheus(started, http)
        started.until(found.is_ready, PATIENCE_S, "become ready")
        started.until(lambda: bool(found.now("up == 1")), PATIENCE_S, f"scraped {target}")
        yield found


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Its HTTP API. Raises QueryError for an expression that it does not take."""

    program: Running
    http: httpx.Client

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return self.http.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def now(self, expr: str, at_s: float | None = None) -> list[Series]:
        """What the expression is now, or at an instant. A selector of a range gives every sample that was scraped."""
        return self._ask("/api/v1/query", {"query": expr} | ({} if at_s is None else {"time": at_s}))

    def over(self, expr: str, begin_s: float, end_s: float, step_s: float) -> list[Series]:
        """What the expression was from `begin_s` to `end_s`."""
        return self._ask("/api/v1/query_range", {"query": expr, "start": begin_s, "end": end_s, "step": step_s})

    def _ask(self, path: str, parameters: Mapping[str, str | float]) -> list[Series]:
        answer: dict[str, Any] = self.http.get(path, params=dict(parameters)).json()
        if answer["status"] != "success":
            raise QueryError(f"{answer['error']}: {parameters['query']}")
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [Series({}, _samples([data["result"]]))]
        return [Series(each["metric"], _samples(each.get("values") or [each["value"]])) for each in data["result"]]


def _samples(pairs: list[tuple[float, str]]) -> Samples:
    return [(float(at_s), float(value)) for at_s, value in pairs]
