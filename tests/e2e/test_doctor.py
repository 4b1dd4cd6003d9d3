"""`quotas doctor` beside a running service."""

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import Any

import httpx

from .processes import PATIENCE_S, Home

PLANS = "plans: {free: {limits: {per-second: {rate: 5/second}}}}\n"


def said(home: Home, url: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    port = url.rpartition(":")[2]
    for each in json.loads(home.command("doctor", "--port", port, "--json").stdout)["findings"]:
        found.setdefault(each["subject"], []).append((each["verdict"], each["message"]))
    return found


def free_port() -> str:
    with closing(create_server(("127.0.0.1", 0))) as held:
        return str(held.getsockname()[1])


def test_it_finds_the_service_and_looks_at_its_store(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(PLANS)
    home.environment |= {"QUOTAS_ADMIN_TOKEN": "ci:" + "a" * 20, "QUOTAS_ADMIN_PORT": free_port()}
    with home.serving() as serving:
        home.good("clients", "create", "acme", "--plan", "free")
        found = said(home, serving.url)
        assert serving.process.poll() is None
        port = serving.url.rpartition(":")[2]
        assert [verdict for verdict, _ in found["port"]] == ["ok"]
        assert f"runs on 127.0.0.1 port {port} and is ready" in found["port"][0][1]
        assert "is ready" in found["admin port"][0][1]
        assert found["store"] == [("ok", f"unix://{home.data.resolve()}/valkey.sock answers")]
        assert found["clients"] == [("ok", "all 1 looked at, each on a plan that exists")]
        assert {verdict for each in found.values() for verdict, _ in each} == {"ok"}


def test_it_ends_when_the_store_of_the_service_does_not_answer(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plans(PLANS)
    with home.serving() as serving:
        assert httpx.get(serving.url + "/readyz", timeout=PATIENCE_S).status_code == 200
        os.kill(home.valkey_pid(), signal.SIGSTOP)
        try:
            found = said(home, serving.url)
        finally:
            os.kill(home.valkey_pid(), signal.SIGCONT)
        assert [verdict for verdict, _ in found["port"]] == ["problem"]
        assert "is not ready" in found["port"][0][1]
        assert [verdict for verdict, _ in found["store"]] == ["problem"]
        assert f"is still in use by process {serving.process.pid} (`serve`)" in found["store"][0][1]
