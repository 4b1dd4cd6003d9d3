"""`herd`: everybody asks across the end of a quota's window.

The shortest window of a quota is an hour, and hours of all real time zones end every fifteen minutes at most. So the
service gets a time zone of its own, a file as the IANA's compiler makes them, whose hours end when the scenario wants.
"""

import struct
import time
import zoneinfo
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.processes import LoadTestError, Running
from loadtests.stage import PATIENT, Options, stage
from loadtests.verdicts import herd
from loadtests.verdicts.verdict import Check, Verdict

UNITS = {"rush-1": 300, "rush-2": 300, "patient": 50}
CONNECTIONS = {"rush-1": 100, "rush-2": 100, "patient": 50}
LEAD_S = 16
"""How long before the end everything is started."""

BEFORE_S, AFTER_S = 2, 2
"""How long the rush is on, before the end and after it."""

ROOM_S = 3
"""How long before the end all connections must be there, and how long the load goes on after the rush."""

HOUR_S = 3_600


def play(options: Options) -> Verdict:
    """Play it. Raises LoadTestError when the machine was too slow to have everything ready before the window's end."""
    end_s = int(time.time()) + LEAD_S
    limits = ", ".join(f"{name}: {{limits: {{hourly: {_quota(name, end_s)}}}}}" for name in UNITS)
    with ExitStack() as stack:
        more = {**PATIENT, "PYTHONTZPATH": stack.enter_context(_zone(end_s))}
        on = stack.enter_context(stage(f"plans: {{{limits}}}", options, workers=2, more=more))
        keys = {name: issued.secret for name, issued in on.enrol({name: name for name in UNITS}).items()}
        places = {name: [[name, keys[name]]] * number for name, number in CONNECTIONS.items()}
        told = {
            "end_us": end_s * 1_000_000,
            "keys": {"rush": [*places["rush-1"], *places["rush-2"]], "patient": places["patient"]},
            "rush_before_ns": BEFORE_S * 10**9,
            "rush_after_ns": AFTER_S * 10**9,
        }

        def meanwhile(_: Running) -> None:
            if time.time() > end_s - ROOM_S:
                raise LoadTestError(f"the load was there only {ROOM_S} s before the window's end or later; try again")

        seconds = max(1, round(end_s - time.time()) + AFTER_S + ROOM_S)
        users = sum(CONNECTIONS.values())
        left = on.load("herd", told=told, users=users, seconds=seconds, options=options, meanwhile=meanwhile)
    return herd.judge([Check(*row) for row in left], units=UNITS, end_us=end_s * 1_000_000)


def _quota(name: str, end_s: int) -> str:
    return f"{{quota: {UNITS[name]}/hour, timezone: Herd/{end_s}}}"


@contextmanager
def _zone(end_s: int) -> Iterator[str]:
    """A folder with a time zone `Herd/<end_s>` whose hours end at this second; for as long this process knows it."""
    before = zoneinfo.TZPATH
    with TemporaryDirectory(prefix="quotas-zone-") as folder:
        file = Path(folder) / "Herd" / str(end_s)
        file.parent.mkdir()
        file.write_bytes(compiled(-end_s % HOUR_S))
        zoneinfo.reset_tzpath(to=[folder, *before])
        try:
            yield folder
        finally:
            zoneinfo.reset_tzpath(to=before)


def compiled(offset_s: int) -> bytes:
    """A time zone that is always this far east of UTC, as a file (RFC 9636, section 3; version 1)."""
    name = b"HERD\0"
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, len(name))
    return b"TZif" + b"\0" * 16 + counts + struct.pack(">lbb", offset_s, 0, 0) + name
