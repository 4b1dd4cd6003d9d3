"""The real command line in this process, as a terminal would use it: words and input in, exit code and text out."""

import io
import json
import os
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from redis import Redis
from takes import with_store

from quotas import assembly, cli, plan_files
from quotas.news import STREAM
from quotas.registry import Registry
from quotas.scripts import PackedPlan, Take, take
from quotas.store import Store

Snapshot = dict[bytes, tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """One JSON value for each line of output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def rows(self) -> list[str]:
        """The lines of output, with one blank where a table has several."""
        return [" ".join(line.split()) for line in self.out.splitlines()]


class Terminal:
    """A working directory and an environment without any `QUOTAS_*` but those that a test sets."""

    def __init__(self, folder: Path, redis_url: str | None = None) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAS_")}
        if redis_url is not None:
            self.environment["QUOTAS_REDIS_URL"] = redis_url

    def file(self, name: str, text: str) -> str:
        """Write a file; returns its name for the command."""
        (self.folder / name).write_text(text, "utf-8")
        return name

    def __call__(self, *words: str, stdin: str = "") -> Done:
        """Run one command to its end. What would be a traceback on a terminal is raised here."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        code: object = None
        with ExitStack() as stack:
            stack.enter_context(patch.object(sys, "argv", ["quotas", *words]))
            stack.enter_context(patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")))
            stack.enter_context(patch.dict(os.environ, self.environment, clear=True))
            stack.enter_context(chdir(self.folder))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(err))
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int), "a command says how it ended"
        return Done(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def good(self, *words: str, stdin: str = "") -> Done:
        """Run one command, which succeeds and has nothing to complain about."""
        done = self(*words, stdin=stdin)
        assert (done.code, done.err) == (0, ""), words
        return done


def snapshot(redis_url: str) -> Snapshot:
    """Everything that a store holds but notices, to the byte, and when each key expires in epoch milliseconds."""
    with Redis.from_url(redis_url, protocol=2) as store:
        keys: Any = store.keys()  # Typed as an awaitable as well, for the other kind of client.
        return {key: (store.dump(key), store.pexpiretime(key)) for key in sorted(keys) if key != STREAM.encode()}


def spend(redis_url: str, plan_yaml: str, client_name: str, cost: int, *skipped: str, key_id: str = "") -> None:
    """Have a client take units as a check does, by the store's clock, from all limits of its plan but these."""

    async def work(store: Store) -> None:
        client = await Registry(store).client(client_name)
        assert client is not None
        config = plan_files.parse(plan_yaml, "test")
        asked = Take(
            client_id=client.id,
            generation=client.generation,
            key_id=key_id,
            cost=cost,
            now_us=assembly.clock(),
            skipped=frozenset(skipped),
            keep_s=config.keep_s,
        )
        decision = await take(store, PackedPlan(config.plans[client.plan].limits), asked)
        assert decision is not None
        assert decision.allowed

    with_store(redis_url, work)
