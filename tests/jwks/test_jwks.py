"""Key sets: what is held, for how long, and what may make us fetch; and fetching from real servers on loopback.

What is about time has the clock and the network as arguments. Real servers show that whatever they answer ends
within bounds, and that nothing ever goes to an address that was not allowed.
"""

import asyncio
import json
import os
import random
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Never

import pytest

from quotas.errors import ConfigError, CredentialError, Fault
from quotas.fetching import MAX_BYTES, Answer, Fetcher, FetchError
from quotas.issuers import (
    DecryptionKeySource,
    Discovery,
    Issuer,
    JwksFile,
    JwksUrl,
    SharedSecret,
)
from quotas.jwks import KeySets, KeysUnavailable, NoSuchKey, read_decryption_keys
from quotas.key_sets import KeySet
from quotas.tokens import UnknownKey, Verified, verify

from .idp import (
    ISS,
    KEY,
    NEW_KEY,
    NOW,
    URL,
    Clock,
    Names,
    Pages,
    Server,
    answering,
    certified,
    endless,
    issuer,
    jwk,
    jwks,
    reply,
    sending,
    serving,
    stalling,
    token,
)

DOWN = FetchError("status", "answered 503")
HERE = Path()


class Bench:
    """Key sets with a clock and a network that the test holds in its hands."""

    def __init__(
        self, *issuers: Issuer, secrets: Mapping[str, str] | None = None, folder: Path = HERE, **more: Any
    ) -> None:
        self.clock, self.pages, self.jitter = Clock(), Pages({URL: Answer(jwks("k1"), 300)}), 0.0
        self.told: list[tuple[str, str]] = []
        self.sets = KeySets(
            issuers or (issuer(),),
            secrets=secrets or {},
            folder=folder,
            fetch=self.pages,
            clock=self.clock,
            jitter=lambda: self.jitter,
            told=lambda name, result: self.told.append((name, result)),
            **more,
        )

    async def settled(self) -> None:
        """Whatever is under way has ended."""
        while flights := [task for task in asyncio.all_tasks() if task.get_name() == "quotas-jwks-refresh"]:
            await asyncio.wait(flights)

    async def at(self, now_s: float) -> KeySet | None:
        """What is held at this time, after what looking at it has caused."""
        self.clock.now_s = now_s
        self.sets.get(ISS)
        await self.settled()
        return self.sets.get(ISS)

    async def found(self, kid: str | None) -> str:
        return type(await self.sets.find(ISS, kid)).__name__


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(bounded())


def kids(held: KeySet | None) -> list[str | None] | None:
    return None if held is None else [key.kid for key in held.keys]


class TestOutage:
    def test_c09_the_last_good_set_is_kept_up_to_its_age_and_then_there_is_none(self) -> None:
        async def work() -> None:
            bench = Bench()
            assert kids(await bench.at(0)) == ["k1"]
            bench.pages.pages[URL] = DOWN
            for now_s in (300, 301, 3600, 86_399):
                assert kids(await bench.at(now_s)) == ["k1"]
            assert await bench.at(86_400) is None
            assert await bench.found("k1") == "KeysUnavailable"
            assert bench.sets.failure(ISS) == "status: answered 503"
            bench.pages.pages[URL] = Answer(jwks("k2"))
            assert kids(await bench.at(86_430)) == ["k2"]
            assert bench.sets.failure(ISS) is None
            assert bench.told[0] == bench.told[-1] == (ISS, "loaded")
            assert set(bench.told[1:-1]) == {(ISS, "status")}

        run(work())

    def test_a_refresh_comes_early_and_a_failed_one_is_repeated_with_a_pause(self) -> None:
        async def work() -> None:
            bench = Bench()
            fetches = []
            for now_s in (0, 224.9, 225, 449.9, 450, 479, 480, 509, 510, 734):
                if now_s == 450:
                    bench.pages.pages[URL] = DOWN
                if now_s == 510:
                    bench.pages.pages[URL] = Answer(jwks("k1"), 300)
                await bench.at(now_s)
                fetches.append(len(bench.pages.asked))
            assert fetches == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

        run(work())

    @pytest.mark.parametrize(("jitter", "due_s", "again_s"), [(0, 225, 30), (0.5, 202.5, 33), (1, 180, 36)])
    def test_each_worker_refreshes_at_a_moment_of_its_own(self, jitter: float, due_s: float, again_s: float) -> None:
        """The docstring's worked example; a failed refresh is never repeated within the 30 s of the cooldown."""

        async def work() -> None:
            bench = Bench()
            bench.jitter = jitter
            fetches = []
            for now_s in (0, due_s - 0.1, due_s, due_s + again_s - 0.1, due_s + again_s):
                await bench.at(now_s)
                fetches.append(len(bench.pages.asked))
                bench.pages.pages[URL] = DOWN
            assert fetches == [1, 1, 2, 2, 3]

        run(work())

    def test_workers_that_start_together_are_soon_apart(self) -> None:
        async def work() -> None:
            moments = set()
            for _ in range(20):
                sets = KeySets(
                    (issuer(),), secrets={}, folder=HERE, fetch=Pages({URL: Answer(jwks("k1"), 300)}), clock=Clock()
                )
                assert await sets.find(ISS, "k1")
                moments.add(sets._held[ISS].due_s)  # noqa: SLF001 # What is drawn shows nowhere else at once.
            assert len(moments) > 10
            assert all(180 <= due_s <= 225 for due_s in moments)

        run(work())

    @pytest.mark.parametrize(
        ("max_age_s", "due_s"),
        [(None, 450), (0, 45), (59, 45), (60, 45), (100, 75), (86_400, 64_800), (10**9, 64_800)],
    )
    def test_max_age_counts_within_bounds(self, max_age_s: int | None, due_s: float) -> None:
        async def work() -> None:
            bench = Bench()
            bench.pages.pages[URL] = Answer(jwks("k1"), max_age_s)
            fetches = []
            for now_s in (0, due_s - 0.1, due_s):
                await bench.at(now_s)
                fetches.append(len(bench.pages.asked))
            assert fetches == [1, 1, 2]

        run(work())

    def test_a_shorter_age(self) -> None:
        async def work() -> None:
            bench = Bench(max_stale_s=900)
            await bench.at(0)
            bench.pages.pages[URL] = DOWN
            assert await bench.at(899)
            assert await bench.at(900) is None

        run(work())

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"", "invalid"),
            (b"<html>", "invalid"),
            (b"{}", "invalid"),
            (b'{"keys": 5}', "invalid"),
            (json.dumps({"keys": [{}] * 101}).encode(), "invalid"),
            (b" " * (MAX_BYTES + 1), "too_large"),
        ],
    )
    def test_an_answer_that_is_no_set_changes_nothing(self, body: bytes, kind: str) -> None:
        async def work() -> None:
            bench = Bench()
            await bench.at(0)
            bench.pages.pages[URL] = Answer(body)
            assert kids(await bench.at(300)) == ["k1"]
            assert bench.told == [(ISS, "loaded"), (ISS, kind)]

        run(work())

    def test_a_set_without_keys_is_an_answer(self) -> None:
        async def work() -> None:
            bench = Bench()
            await bench.at(0)
            bench.pages.pages[URL] = Answer(b'{"keys": []}')
            assert kids(await bench.at(300)) == []

        run(work())

    def test_c09_unknown_keys_in_a_set(self) -> None:
        async def work() -> None:
            bench = Bench()
            odd = [
                {"kty": "AKP", "kid": "k1"},
                {"kty": "oct", "k": "A" * 43, "kid": "k1"},
                {**jwk("enc"), "use": "enc"},
            ]
            bench.pages.pages[URL] = Answer(json.dumps({"keys": [*odd, jwk("k1"), {**jwk("d"), "d": "AA"}]}).encode())
            assert kids(await bench.at(0)) == ["k1"]
            assert isinstance(verify(token("k1"), {ISS: issuer()}, bench.sets, now_s=NOW), Verified)

        run(work())

    def test_who_never_answers(self) -> None:
        async def work() -> None:
            bench = Bench(timeout_s=0.01)
            bench.pages.gate.clear()
            assert await bench.found("k1") == "KeysUnavailable"
            assert bench.told == [(ISS, "timeout")]
            # It is not asked again at once, so nobody waits in vain a second time.
            assert await bench.found("k1") == "KeysUnavailable"
            assert len(bench.pages.asked) == 1
            bench.pages.gate.set()
            bench.clock.now_s = 30
            assert await bench.found("k1") == "KeySet"

        run(work())


class TestUnknownKeys:
    def test_a_thousand_random_kids_are_one_fetch_and_good_tokens_never_wait(self) -> None:
        async def work() -> None:
            bench, chance = Bench(), random.Random(5)
            await bench.at(0)
            names = [f"{chance.getrandbits(64):x}" for _ in range(1000)]
            bench.pages.gate.clear()
            waiting = [asyncio.create_task(bench.found(name)) for name in names]
            await asyncio.sleep(0)
            for _ in range(10):
                assert isinstance(verify(token("k1"), {ISS: issuer()}, bench.sets, now_s=NOW), Verified)
            bench.pages.gate.set()
            assert set(await asyncio.gather(*waiting)) == {"NoSuchKey"}
            assert set(await asyncio.gather(*map(bench.found, names))) == {"NoSuchKey"}
            assert len(bench.pages.asked) == 2
            bench.clock.now_s = 29.9
            assert await bench.found("late") == "NoSuchKey"
            assert len(bench.pages.asked) == 2
            assert bench.told.count((ISS, "unknown_kid")) == 1001
            bench.clock.now_s = 30
            assert await bench.found("later") == "NoSuchKey"
            assert len(bench.pages.asked) == 3

        run(work())

    def test_a_thousand_kids_before_anything_is_known_are_one_fetch(self) -> None:
        async def work() -> None:
            bench = Bench()
            found = await asyncio.gather(*(bench.found(f"kid {number}") for number in range(1000)), bench.found("k1"))
            assert found == ["NoSuchKey"] * 1000 + ["KeySet"]
            assert len(bench.pages.asked) == 1

        run(work())

    def test_rotation_costs_one_fetch_however_many_bring_the_new_key(self) -> None:
        async def work() -> None:
            bench = Bench()
            await bench.at(0)
            bench.pages.pages[URL] = Answer(json.dumps({"keys": [jwk("k1"), jwk("k2", NEW_KEY)]}).encode())
            new = token("k2", NEW_KEY)
            unknown = verify(new, {ISS: issuer()}, bench.sets, now_s=NOW)
            assert unknown == UnknownKey(ISS, "k2")
            assert set(await asyncio.gather(*(bench.found("k2") for _ in range(100)))) == {"KeySet"}
            assert len(bench.pages.asked) == 2
            assert isinstance(verify(new, {ISS: issuer()}, bench.sets, now_s=NOW), Verified)
            with pytest.raises(CredentialError):
                verify(token("k2", KEY), {ISS: issuer()}, bench.sets, now_s=NOW)

        run(work())

    def test_the_same_unknown_kid_is_no_reason_for_long(self) -> None:
        async def work() -> None:
            bench = Bench()
            bench.pages.pages[URL] = Answer(jwks("k1"), 86_400)
            await bench.at(0)
            fetches = []
            for now_s, kid in (
                (0, "old"),
                (31, "old"),
                (62, "old"),
                (63, "other"),
                (119, "old"),
                (120, "old"),
                (121, "old"),
            ):
                bench.clock.now_s = now_s
                assert await bench.found(kid) == "NoSuchKey"
                fetches.append(len(bench.pages.asked))
            assert fetches == [2, 2, 2, 3, 3, 4, 4]

        run(work())

    def test_few_misses_are_remembered(self) -> None:
        async def work() -> None:
            bench = Bench()
            for step in range(100):
                bench.clock.now_s = 31.0 * step
                await bench.found(f"kid {step}")
            assert len(bench.sets._held[ISS].missed) <= 4  # noqa: SLF001 # Memory is what this is about.

        run(work())

    def test_in_an_outage_unknown_kids_are_refused_and_known_ones_are_not(self) -> None:
        async def work() -> None:
            bench = Bench()
            await bench.at(0)
            bench.pages.pages[URL] = DOWN
            assert await bench.found("new") == "NoSuchKey"
            assert await bench.found("k1") == "KeySet"
            bench.pages.pages[URL] = Answer(jwks("k1", "new"))
            bench.clock.now_s = 30
            # The fetch that failed has said nothing about this key.
            assert await bench.found("new") == "KeySet"

        run(work())

    def test_who_comes_during_a_refresh_waits_for_it_and_loses_nothing(self) -> None:
        async def work() -> None:
            bench = Bench()
            await bench.at(0)
            bench.pages.gate.clear()
            bench.clock.now_s = 225
            assert kids(bench.sets.get(ISS)) == ["k1"]
            waiting = asyncio.create_task(bench.found("new"))
            await asyncio.sleep(0)
            bench.pages.gate.set()
            assert await waiting == "NoSuchKey"
            assert len(bench.pages.asked) == 2
            bench.pages.pages[URL] = Answer(jwks("new"))
            assert await bench.found("new") == "KeySet"

        run(work())

    def test_a_caller_who_leaves_does_not_end_the_fetch(self) -> None:
        async def work() -> None:
            bench = Bench()
            bench.pages.gate.clear()
            leaving, staying = (asyncio.create_task(bench.found("k1")) for _ in range(2))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.sleep(0)
            bench.pages.gate.set()
            assert await staying == "KeySet"
            assert leaving.cancelled()
            assert len(bench.pages.asked) == 1

        run(work())

    def test_an_issuer_that_is_not_configured(self) -> None:
        async def work() -> None:
            bench = Bench()
            assert bench.sets.get("https://other") is None
            assert isinstance(await bench.sets.find("https://other", "k1"), NoSuchKey)
            assert bench.sets.failure("https://other") is None
            assert bench.pages.asked == []

        run(work())


class TestDiscovery:
    OPENID = ISS + "/.well-known/openid-configuration"

    def published(self, bench: Bench, at: str, name: str = ISS, uri: object = URL) -> None:
        bench.pages.pages[at] = Answer(json.dumps({"issuer": name, "jwks_uri": uri}).encode())

    def test_it_is_done_once_and_not_for_each_kid(self) -> None:
        async def work() -> None:
            bench = Bench(issuer(Discovery()))
            self.published(bench, self.OPENID)
            assert kids(await bench.at(0)) == ["k1"]
            assert await bench.found("new") == "NoSuchKey"
            await bench.at(400)
            assert bench.pages.asked == [(self.OPENID, ISS), (URL, ISS), (URL, ISS), (URL, ISS)]

        run(work())

    @pytest.mark.parametrize(
        ("name", "openid", "oauth"),
        [
            (ISS, ISS + "/.well-known/openid-configuration", ISS + "/.well-known/oauth-authorization-server"),
            (ISS + "/", ISS + "/.well-known/openid-configuration", ISS + "/.well-known/oauth-authorization-server"),
            (
                ISS + "/realms/a",
                ISS + "/realms/a/.well-known/openid-configuration",
                ISS + "/.well-known/oauth-authorization-server/realms/a",
            ),
        ],
    )
    def test_where_it_looks(self, name: str, openid: str, oauth: str) -> None:
        async def work() -> None:
            for body in (None, b"<html>"):
                bench = Bench(issuer(Discovery(), name))
                bench.pages.pages[openid] = DOWN if body is None else Answer(body)
                self.published(bench, oauth, name)
                assert isinstance(await bench.sets.find(name, "k1"), KeySet)
                assert bench.pages.urls == [openid, oauth, URL]

        run(work())

    @pytest.mark.parametrize(
        ("name", "uri", "kind"),
        [
            (ISS + "/", URL, "mismatch"),
            ("https://evil.example.com", URL, "mismatch"),
            (ISS, None, "invalid"),
            (ISS, 5, "invalid"),
        ],
    )
    def test_what_is_not_believed(self, name: str, uri: object, kind: str) -> None:
        async def work() -> None:
            bench = Bench(issuer(Discovery()))
            self.published(bench, self.OPENID, name, uri)
            self.published(bench, ISS + "/.well-known/oauth-authorization-server", name, uri)
            assert await bench.found("k1") == "KeysUnavailable"
            assert bench.told == [(ISS, kind)]
            assert URL not in bench.pages.urls

        run(work())

    def test_no_answer_is_no_reason_to_look_elsewhere(self) -> None:
        async def work() -> None:
            bench = Bench(issuer(Discovery()))
            assert await bench.found("k1") == "KeysUnavailable"
            assert bench.pages.urls == [self.OPENID]

        run(work())

    def test_keys_that_have_moved_are_found_again(self) -> None:
        async def work() -> None:
            bench, moved = Bench(issuer(Discovery())), URL + "/new"
            self.published(bench, self.OPENID)
            await bench.at(0)
            bench.pages.pages |= {URL: DOWN, moved: Answer(jwks("k2"))}
            self.published(bench, self.OPENID, uri=moved)
            assert kids(await bench.at(300)) == ["k1"]
            assert kids(await bench.at(330)) == ["k2"]

        run(work())


class TestFiles:
    def test_a_file_is_read_again_when_it_has_changed(self, tmp_path: Path) -> None:
        async def work() -> None:
            file = tmp_path / "keys.json"
            file.write_bytes(jwks("k1"))
            bench = Bench(issuer(JwksFile("keys.json")), folder=tmp_path)
            held = await bench.at(0)
            assert kids(held) == ["k1"]
            assert await bench.at(5) is held
            assert bench.told == [(ISS, "loaded")]
            (tmp_path / "next").write_bytes(jwks("k2"))
            (tmp_path / "next").rename(file)
            assert kids(await bench.at(10)) == ["k2"]
            file.write_bytes(b"{half")
            assert kids(await bench.at(15)) == ["k2"]
            file.unlink()
            assert kids(await bench.at(20)) == ["k2"]
            file.write_bytes(b"x" * (MAX_BYTES + 1))
            await bench.at(25)
            file.write_bytes(jwks("k3"))
            assert await bench.found("k3") == "KeySet"
            assert bench.told[2:-1] == [(ISS, kind) for kind in ("invalid", "file", "too_large")]
            assert bench.pages.asked == []

        run(work())

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        async def work() -> None:
            bench = Bench(issuer(JwksFile(str(tmp_path / "none"))))
            assert await bench.found("k1") == "KeysUnavailable"
            assert "none cannot be read: No such file" in str(bench.sets.failure(ISS))

        run(work())


class TestSecrets:
    def test_a_secret_is_there_at_once_and_for_ever(self) -> None:
        async def work() -> None:
            bench = Bench(issuer(SharedSecret("TOKEN_SECRET")), secrets={"TOKEN_SECRET": "s" * 32})
            for now_s in (0.0, 1e12):
                bench.clock.now_s = now_s
                assert kids(bench.sets.get(ISS)) == [None]
                assert await bench.found("any") == "KeySet"
            assert bench.told == bench.pages.asked == []

        run(work())

    def test_every_secret_that_cannot_be_used_is_told_and_none_is_shown(self) -> None:
        names = ["A", "B", "C"]
        with pytest.raises(ConfigError) as caught:
            Bench(*(issuer(SharedSecret(name), name) for name in names), secrets={"A": "hunter2", "C": "c" * 32})
        assert caught.value.faults == (
            Fault("issuers.0.secret_env", "a shared secret has at least 32 bytes"),
            Fault("issuers.1.secret_env", "B is not set in the environment"),
        )

    def test_decryption_keys(self, tmp_path: Path) -> None:
        direct = json.dumps({"kty": "oct", "k": "A" * 43, "kid": "own"})
        (tmp_path / "key.json").write_text(direct)
        (tmp_path / "bad.pem").write_text("hunter2")
        sources = [DecryptionKeySource(None, "key.json", None), DecryptionKeySource("named", None, "KEY")]
        found = read_decryption_keys(sources, {"KEY": direct}, tmp_path)
        assert [key.kid for key in found] == ["own", "named"]
        bad = [
            DecryptionKeySource(None, "none.pem", None),
            DecryptionKeySource(None, "bad.pem", None),
            DecryptionKeySource(None, None, "NONE"),
        ]
        with pytest.raises(ConfigError) as caught:
            read_decryption_keys([*bad, *sources], {"KEY": direct}, tmp_path)
        assert [fault.path for fault in caught.value.faults] == [
            "decryption_keys.0.key_file",
            "decryption_keys.1.key_file",
            "decryption_keys.2.key_env",
        ]
        assert "hunter2" not in str(caught.value)
        assert read_decryption_keys([], os.environ, tmp_path) == ()


class TestConfiguration:
    def test_a_source_that_stays_keeps_its_set(self) -> None:
        async def work() -> None:
            bench = Bench()
            held = await bench.at(0)
            bench.sets.configure([issuer()], {})
            assert bench.sets.get(ISS) is held
            bench.sets.configure([issuer(JwksUrl(URL + "/2"))], {})
            assert bench.sets.get(ISS) is None
            await bench.settled()

        run(work())

    def test_a_bad_configuration_changes_nothing(self) -> None:
        async def work() -> None:
            bench = Bench()
            held = await bench.at(0)
            with pytest.raises(ConfigError):
                bench.sets.configure([issuer(JwksUrl("https://a")), issuer(SharedSecret("A"), "b")], {})
            assert bench.sets.get(ISS) is held

        run(work())

    def test_a_fetch_for_an_issuer_that_is_gone_is_ended(self) -> None:
        async def work() -> None:
            bench = Bench()
            bench.pages.gate.clear()
            waiting = asyncio.create_task(bench.found("k1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            bench.sets.configure([], {})
            assert await waiting == "KeysUnavailable"
            assert bench.told == []

        run(work())

    def test_entered_it_keeps_idle_issuers_fresh_and_leaves_nothing_behind(self) -> None:
        async def work() -> None:
            bench = Bench(issuer(), issuer(JwksUrl(URL + "/down"), "https://b"))
            async with bench.sets:
                await asyncio.sleep(0)
                await bench.settled()
                assert bench.told == [(ISS, "loaded"), ("https://b", "connect")]
                bench.pages.gate.clear()
                bench.clock.now_s = 225
                bench.sets.get(ISS)
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        run(work())


async def kind_of(fetching: Any) -> str:
    with pytest.raises(FetchError) as caught:
        await fetching
    return caught.value.kind


class TestAnswers:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (reply(b"{}"), Answer(b"{}")),
            (reply(b"{}", "200 OK", "Cache-Control: public, max-age=300"), Answer(b"{}", 300)),
            (reply(b"{}", "200 OK", "cache-control: MAX-AGE=0"), Answer(b"{}", 0)),
            (reply(b"{}", "200 OK", 'Cache-Control: max-age="60"'), Answer(b"{}", 60)),
            (reply(b"{}", "200 OK", "Cache-Control: s-maxage=5"), Answer(b"{}")),
            (reply(b"{}", "200 OK", "Cache-Control: max-age=-1"), Answer(b"{}")),
            (reply(b"{}", "200 OK", "Content-Encoding: identity"), Answer(b"{}")),
            (reply(b" " * MAX_BYTES), Answer(b" " * MAX_BYTES)),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", Answer(b"{}")),
            (b"HTTP/1.1 200 OK\r\n\r\n{}", Answer(b"{}")),
            (b"HTTP/1.0 200 OK\r\n\r\n{}", Answer(b"{}")),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n" + reply(b"{}"), Answer(b"{}")),
        ],
    )
    def test_good_ones(self, data: bytes, expected: Answer) -> None:
        async def work() -> None:
            async with serving(sending(data)) as server:
                url = f"{server.url}/jwks?a=b"
                assert await Fetcher()(url, url) == expected
                assert server.targets == ["/jwks?a=b"]
                head = server.heads[0].lower()
                assert f"host: 127.0.0.1:{server.port}\r\n".encode() in head
                assert not any(name in head for name in (b"authorization", b"cookie", b"accept-encoding"))

        run(work())

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (reply(b"", "404 Not Found"), "status"),
            (reply(b"", "500 Oops"), "status"),
            (reply(b"", "204 No Content"), "status"),
            (reply(b"{}", "206 Partial Content"), "status"),
            (reply(b"", "304 Not Modified"), "status"),
            (reply(b"", "302 Found"), "redirect"),
            (reply(b" " * (MAX_BYTES + 1)), "too_large"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (MAX_BYTES + 1), "too_large"),
            (reply(b"x", "200 OK", "Content-Encoding: gzip"), "protocol"),
            (b"", "protocol"),
            (b"junk\r\n\r\n", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "protocol"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "protocol"),
            (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, "protocol"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "protocol"),
            (reply(b"", "302 Found", "Location: http://["), "protocol"),
            (reply(b"", "302 Found", "Location: \xe9"), "protocol"),
        ],
    )
    def test_bad_ones(self, data: bytes, kind: str) -> None:
        async def work() -> None:
            async with serving(sending(data)) as server:
                assert await kind_of(Fetcher()(server.url, server.url)) == kind

        run(work())

    def test_a_body_without_end(self) -> None:
        async def work() -> None:
            async with serving(endless) as server:
                assert await kind_of(Fetcher()(server.url, server.url)) == "too_large"

        run(work())

    @pytest.mark.parametrize(
        "data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", b"HTTP/1.1 100 Continue\r\n\r\n"]
    )
    def test_a_server_that_stalls_is_left(self, data: bytes, tmp_path: Path) -> None:
        async def work() -> None:
            told: list[str] = []
            async with serving(stalling(data)) as server:
                sets = KeySets(
                    [issuer(JwksUrl(server.url))],
                    secrets={},
                    folder=tmp_path,
                    told=lambda _, result: told.append(result),
                    timeout_s=0.05,
                )
                assert isinstance(await sets.find(ISS, "k1"), KeysUnavailable)
            assert told == ["timeout"]

        run(work())

    def test_nobody_listens(self) -> None:
        async def work() -> None:
            async with serving(sending(b"")) as server:
                url = server.url
            assert await kind_of(Fetcher()(url, url)) == "connect"

        run(work())

    def test_a_name_that_is_none(self) -> None:
        async def resolve(_host: str, _port: int) -> Sequence[str]:
            raise OSError(-2, "Name or service not known")

        async def nothing(_host: str, _port: int) -> Sequence[str]:
            return []

        async def work() -> None:
            assert await kind_of(Fetcher(resolve=resolve)(ISS, ISS)) == "connect"
            assert await kind_of(Fetcher(resolve=nothing)(ISS, ISS)) == "address"

        run(work())

    def test_from_a_real_server_to_a_set(self, tmp_path: Path) -> None:
        async def work() -> None:
            async with serving(answering({"/jwks": reply(jwks("k1"))})) as server:
                sets = KeySets([issuer(JwksUrl(f"{server.url}/jwks"))], secrets={}, folder=tmp_path)
                assert isinstance(await sets.find(ISS, "k1"), KeySet)

        run(work())


class TestRedirects:
    def test_three_are_followed_and_no_more(self) -> None:
        async def work() -> None:
            pages = {f"/{step}": reply(b"", "302 Found", f"Location: /{step - 1}") for step in range(1, 9)}
            pages["/0"] = reply(b"{}")
            async with serving(answering(pages)) as server:
                assert await Fetcher()(f"{server.url}/3", f"{server.url}/3") == Answer(b"{}")
                assert server.targets == ["/3", "/2", "/1", "/0"]
                assert await kind_of(Fetcher()(f"{server.url}/4", f"{server.url}/4")) == "redirect"
                assert server.targets[4:] == ["/4", "/3", "/2", "/1"]

        run(work())

    @pytest.mark.parametrize("status", ["301 A", "302 A", "303 A", "307 A", "308 A"])
    def test_each_kind(self, status: str) -> None:
        async def work() -> None:
            pages = {"/a": reply(b"", status, "Location: b"), "/b": reply(b"{}")}
            async with serving(answering(pages)) as server:
                assert await Fetcher()(f"{server.url}/a", f"{server.url}/a") == Answer(b"{}")

        run(work())

    @pytest.mark.parametrize(
        ("location", "kind"),
        [
            ("http://10.0.0.1/", "redirect"),
            ("http://example.com/", "redirect"),
            ("https://10.0.0.1/", "address"),
            ("https://192.168.1.1/", "address"),
            ("https://172.16.0.1/", "address"),
            ("https://100.64.0.1/", "address"),
            ("https://169.254.169.254/latest/meta-data", "address"),
            ("https://0.0.0.0/", "address"),
            ("https://255.255.255.255/", "address"),
            ("https://224.0.0.1/", "address"),
            ("https://[fe80::1]/", "address"),
            ("https://[fc00::1]/", "address"),
            ("https://[ff02::1]/", "address"),
            ("https://[::]/", "address"),
            ("https://[::ffff:10.0.0.1]/", "address"),
            ("https://[64:ff9b::a00:1]/", "address"),
            ("https://[2002:a00:1::]/", "address"),
            ("https://[2001:0:a00:1::]/", "address"),
            ("//10.0.0.1/", "redirect"),
            ("file:///etc/passwd", "redirect"),
            ("gopher://10.0.0.1/", "redirect"),
            ("https://user:word@example.com/", "redirect"),
            ("https://a:99999/", "redirect"),
            ("https://a.b/#c", "redirect"),
        ],
    )
    def test_never_to_a_private_address(self, location: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work() -> None:
            opened: list[str] = []
            connect = asyncio.open_connection

            async def recorded(host: str, *more: Any, **named: Any) -> Any:
                opened.append(host)
                return await connect(host, *more, **named)

            monkeypatch.setattr(asyncio, "open_connection", recorded)
            async with serving(sending(reply(b"", "302 Found", f"Location: {location}"))) as server:
                assert await kind_of(Fetcher()(server.url, server.url)) == kind
            assert opened == ["127.0.0.1"]

        run(work())


class TestAddresses:
    PUBLIC, V6 = "93.184.216.34", "2606:2800:220:1::1"
    ID, OTHER = "https://id.example.com/jwks", "https://other.example.com/jwks"

    @pytest.mark.parametrize(
        ("url", "written", "addresses", "is_allowed"),
        [
            # What the operator wrote may be anywhere, by https.
            (ID, ID, [PUBLIC], True),
            (ID, ID, ["10.0.0.1"], True),
            (ID, ID, ["127.0.0.1"], True),
            (ID + "/more", ID, ["10.0.0.1"], True),
            ("https://id.example.com:443/jwks", ID, ["10.0.0.1"], True),
            # Another origin must be public, with every address that it has.
            (OTHER, ID, [PUBLIC], True),
            (OTHER, ID, [V6], True),
            (OTHER, ID, ["64:ff9b::5db8:d822"], True),
            (OTHER, ID, [PUBLIC, V6], True),
            (OTHER, ID, ["::ffff:5db8:d822"], True),
            (OTHER, ID, [PUBLIC, "10.0.0.1"], False),
            (OTHER, ID, [V6, "fc00::1"], False),
            (OTHER, ID, ["127.0.0.1"], False),
            (OTHER, ID, ["::1"], False),
            (OTHER, ID, ["::ffff:127.0.0.1"], False),
            (OTHER, ID, ["64:ff9b::7f00:1"], False),
            (OTHER, ID, ["fe80::1%1"], False),
            ("https://id.example.com:8443/jwks", ID, ["10.0.0.1"], False),
            ("https://localhost/jwks", ID, ["127.0.0.1"], False),
            # http is loopback, and only where the operator wrote loopback; a name must keep its promise.
            ("http://localhost/", "http://localhost/", ["127.0.0.1", "::1"], True),
            ("http://localhost/", "http://localhost/", ["::ffff:7f00:1"], True),
            ("http://localhost/", "http://localhost/", ["10.0.0.1"], False),
            ("http://localhost/", "http://localhost/", [PUBLIC], False),
            ("http://localhost/", ID, ["127.0.0.1"], False),
            ("http://localhost:1/", "http://127.0.0.1/", ["127.0.0.1"], True),
            (OTHER, "http://127.0.0.1/", [PUBLIC], True),
            (OTHER, "http://127.0.0.1/", ["127.0.0.1"], True),
            (OTHER, "http://127.0.0.1/", ["10.0.0.1"], False),
        ],
    )
    def test_who_may_be_asked(
        self,
        url: str,
        written: str,
        addresses: list[str],
        is_allowed: bool,  # noqa: FBT001 # A table.
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        async def work() -> None:
            opened: list[str] = []

            async def refuse(host: str, *_: Any, **__: Any) -> Never:
                opened.append(host)
                raise ConnectionRefusedError

            async def resolve(_host: str, _port: int) -> Sequence[str]:
                return addresses

            monkeypatch.setattr(asyncio, "open_connection", refuse)
            assert await kind_of(Fetcher(resolve=resolve)(url, written)) == ("connect" if is_allowed else "address")
            assert opened == (addresses if is_allowed else [])

        run(work())

    def test_a_name_that_changes_its_mind_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def work() -> None:
            opened: list[tuple[str, str]] = []

            async def refuse(host: str, *_: Any, **named: Any) -> Never:
                opened.append((host, named["server_hostname"]))
                raise ConnectionRefusedError

            monkeypatch.setattr(asyncio, "open_connection", refuse)
            names = Names(other=[[self.PUBLIC], ["169.254.169.254"]])
            assert await kind_of(Fetcher(resolve=names)(self.OTHER, self.ID)) == "connect"
            assert names.asked == ["other.example.com"]
            assert opened == [(self.PUBLIC, "other.example.com")]
            assert await kind_of(Fetcher(resolve=names)(self.OTHER, self.ID)) == "address"

        run(work())

    def test_certificates_are_the_names_not_the_addresses(self, tmp_path: Path) -> None:
        server_tls, client_tls = certified(tmp_path, "id.example.com")

        async def work() -> None:
            names = Names(id=[["127.0.0.1"]], other=[["127.0.0.1"]])

            def url(host: str, server: Server, path: str = "/jwks") -> str:
                return f"https://{host}.example.com:{server.port}{path}"

            async with serving(answering({"/jwks": reply(b"{}")}), server_tls) as server:
                trusting, careful = Fetcher(resolve=names, tls=client_tls), Fetcher(resolve=names)
                own = url("id", server)
                assert await trusting(own, own) == Answer(b"{}")
                assert f"host: id.example.com:{server.port}".encode() in server.heads[0].lower()
                assert await kind_of(careful(own, own)) == "tls"
                other = url("other", server)
                assert await kind_of(trusting(other, other)) == "tls"
                assert len(server.heads) == 1

        run(work())

    def test_over_tls_a_redirect_stays_at_its_origin_or_goes_to_public_addresses(self, tmp_path: Path) -> None:
        server_tls, client_tls = certified(tmp_path, "id.example.com", "inner.example.com")

        async def work() -> None:
            names = Names(id=[["127.0.0.1"]], inner=[["127.0.0.1"]])
            pages = {"/b": reply(b"{}"), "/a": reply(b"", "302 Found", "Location: /b")}
            async with serving(answering(pages), server_tls) as server:
                root = f"https://id.example.com:{server.port}"
                pages["/in"] = reply(b"", "302 Found", f"Location: https://inner.example.com:{server.port}/b")
                pages["/down"] = reply(b"", "302 Found", f"Location: http://id.example.com:{server.port}/b")
                fetch = Fetcher(resolve=names, tls=client_tls)
                assert await fetch(f"{root}/a", f"{root}/a") == Answer(b"{}")
                assert await kind_of(fetch(f"{root}/in", f"{root}/in")) == "address"
                assert await kind_of(fetch(f"{root}/down", f"{root}/down")) == "redirect"
                assert server.targets == ["/a", "/b", "/in", "/down"]

        run(work())

    def test_the_next_address_is_tried(self) -> None:
        async def work() -> None:
            async with serving(answering({"/": reply(b"{}")})) as server:
                names = Names(localhost=[["127.0.0.77", "127.0.0.1"]])
                url = f"http://localhost:{server.port}/"
                assert await Fetcher(resolve=names)(url, url) == Answer(b"{}")

        run(work())
