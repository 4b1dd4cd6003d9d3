"""A load that comes when it comes: requests at a constant rate, each one's time counted from when it was to be sent.

A client that waits for an answer before it asks again sends less while the server is slow, and so leaves out just the
requests that would have waited. Here they are due at fixed instants, whatever has been answered; one for which no
connection is free waits, and its wait counts.

One thread waits in `select`, whose timeouts are exact to some microseconds where those of event loops are to one or
several milliseconds; a busy loop would take a core from the server. Even so it takes up to half a core at 7,000
requests a second, and where there are two, what it waits for them is in its times: with wrk, `callers.py` measures.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.processes import LoadTestError

CONNECTIONS = 64
_END_S = 10.0
"""How long the last answers may take."""

_CHUNK = 1 << 16
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Times:
    """How long requests took, in microseconds, from when they were due, in order of size; and all of them together."""

    sorted_us: list[float]
    duration_us: float

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.sorted_us) / self.duration_us * 1e6

    def percentile_us(self, percent: float) -> float:
        """The time within which this share of the requests was answered."""
        return self.sorted_us[min(len(self.sorted_us) - 1, int(len(self.sorted_us) * percent / 100))]


def ask(port: int, requests: Iterator[bytes], *, rate: float, seconds: float) -> Times:
    """Ask at this rate for so long. Raises LoadTestError when anything but 200 is answered, or nothing."""
    idle = deque(_Connection(port) for _ in range(CONNECTIONS))
    every = {each.socket: each for each in idle}
    total = int(rate * seconds)
    sent = 0
    times: list[float] = []
    begun = time.perf_counter()
    end_by = begun + seconds + _END_S
    try:
        while len(times) < total:
            now = time.perf_counter()
            while sent < total and idle and begun + sent / rate <= now:
                idle.popleft().send(next(requests), due=begun + sent / rate)
                sent += 1
            if now > end_by:
                raise LoadTestError(f"{total - len(times)} of {total} requests at a constant rate were not answered")
            wait = begun + sent / rate - now if sent < total and idle else end_by - now
            for ready in select.select(list(every), [], [], max(0.0, wait))[0]:
                connection = every[ready]
                took = connection.read()
                if took is None:
                    continue
                times.append(took * 1e6)
                if connection.is_last:
                    every.pop(ready).close()
                    connection = _Connection(port)
                    every[connection.socket] = connection
                idle.append(connection)
    finally:
        for each in every:
            each.close()
    return Times(sorted(times), (time.perf_counter() - begun) * 1e6)


class _Connection:
    """One connection with at most one request under way; `is_last` says that the server ends it after its answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_last = False
        self._due = 0.0
        self._data = b""

    def send(self, request: bytes, *, due: float) -> None:
        """Send a request that was to leave at this instant."""
        self._due, self._data = due, b""
        self.socket.sendall(request)

    def read(self) -> float | None:
        """Seconds from when the request was due until its answer was whole; None while it is not."""
        got = self.socket.recv(_CHUNK)
        if not got:
            raise LoadTestError("the server ended a connection")
        self._data += got
        head, found, body = self._data.partition(_HEAD_END)
        if not found:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise LoadTestError(f"answered {head.splitlines()[0].decode('latin-1')} at a constant rate")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        self.is_last = fields.get(b"connection") == b"close"
        whole = len(body) >= int(fields.get(b"content-length", b"0"))
        return time.perf_counter() - self._due if whole else None

    def close(self) -> None:
        """End it."""
        self.socket.close()
