"""What the dashboards show, without Grafana: `make dashboards-preview`.

It starts the service with clients and traffic, lets a real Prometheus scrape it, asks every query of every panel, and
draws one picture for each dashboard. Exit codes: 0 drawn, 1 not, with what is missing; 130 interrupted.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards import queries
from dashboards.drawing import Line, draw
from dashboards.prometheus import Prometheus
from dashboards.scene import JOB, scene
from dashboards.traffic import Event
from loadtests.processes import LoadTestError

FOLDER = Path(__file__).with_name("previews")
CLIENT = "acme"
INTERRUPTED = 130
_STALLED = 0.6, 0.66
"""From when to when the store stands still, as shares of the whole time: so that there is something to see."""


def main() -> int:
    """Play the scene, draw it, say where the pictures are, and give the exit code."""
    options = _options()
    try:
        with tempfile.TemporaryDirectory(prefix="quotas-preview-") as folder:
            for path in pictures(Path(folder), options.folder, options.seconds):
                sys.stdout.write(f"{path}\n")
    except (LoadTestError, FileNotFoundError) as error:
        sys.stderr.write(f"no preview: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dashboards.preview", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long the traffic lasts; 60")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help="where the pictures go")
    return parser.parse_args()


def pictures(folder: Path, into: Path, seconds: int) -> Sequence[Path]:
    """Play for so long in `folder`, and draw every dashboard into the other; the files. Raises LoadTestError."""
    into.mkdir(parents=True, exist_ok=True)
    with scene(folder) as playing:
        begun_s = time.time()
        still, again = (share * seconds for share in _STALLED)
        playing.play(seconds, [Event(still, playing.stall_store), Event(again, playing.resume_store)])
        ended_s = time.time()
        # As in Grafana, `$__rate_interval` is several scrapes; more of them than its least make calmer lines.
        values = {"job": JOB, "instance": ".*", "plan": ".*", "client": CLIENT, "limit": ".*", "trend": "1h"}
        values |= {"__range": f"{seconds}s", "__rate_interval": "8s"}
        drawn = []
        for name in queries.NAMES:
            document, path = queries.read(name), into / f"{name}.png"
            asked = {
                panel["id"]: _lines(playing.prometheus, panel, values, (begun_s, ended_s))
                for panel in queries.panels(document)
            }
            chosen = f"client {CLIENT}, " if name == "client" else ""
            draw(document, asked, (begun_s, ended_s), f"{chosen}{seconds} seconds of made-up traffic", path)
            drawn.append(path)
    return drawn


def _lines(
    prometheus: Prometheus, panel: Mapping[str, Any], values: Mapping[str, str], span_s: tuple[float, float]
) -> list[Line]:
    found = []
    for target in queries.targets(panel):
        expr = queries.filled(target.expr, values)
        series = prometheus.now(expr, span_s[1]) if target.instant else prometheus.over(expr, *span_s, 1)
        found += [Line(queries.named(target.legend, each.labels), each.samples) for each in series]
    return found


if __name__ == "__main__":
    sys.exit(main())
