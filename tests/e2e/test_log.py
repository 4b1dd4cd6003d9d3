"""What the real service writes to standard error."""

import json
from pathlib import Path

import httpx
import pytest

from .processes import Home, until

SECRET = "SECRET123"


@pytest.mark.parametrize("words", [(), ("--workers", "2")], ids=["alone", "two"])
def test_every_line_is_json_and_none_holds_what_was_sent(tmp_path: Path, words: tuple[str, ...]) -> None:
    home = Home(tmp_path)
    home.environment |= {"QUOTAS_LOG_FORMAT": "json", "QUOTAS_LOG_LEVEL": "debug", "QUOTAS_LOG_REFUSALS": "1000"}
    sent = {"x-api-key": SECRET, "x-forwarded-uri": f"/{SECRET}?key={SECRET}", "upgrade": SECRET}
    with home.serving(*words) as serving:
        for path in (f"/check?key={SECRET}", f"/check/{SECRET}", f"/v1/usage?key={SECRET}", f"/{SECRET}"):
            assert httpx.get(serving.url + path, headers=sent, trust_env=False).status_code in {401, 404}
        until(lambda: serving.err().count("a check was refused") == 3)
        assert serving.stop() == 0
        lines = [json.loads(line) for line in serving.err().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
    refused = [line for line in lines if line["logger"] == "quotas.refusals"]
    assert [(line["level"], line["reason"], line["status"]) for line in refused] == [
        ("INFO", "invalid_credential", 401)
    ] * 3
    assert any(line["logger"] == "uvicorn.error" for line in lines)
    assert SECRET not in serving.err()
