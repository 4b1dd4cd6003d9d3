"""What the doctor says of settings and of the plan file, and how it says it."""

from pathlib import Path

import pytest

from quotas import config_health, findings, plan_files
from quotas.configuration import ConfigFile
from quotas.errors import ConfigError, Fault
from quotas.findings import Finding, Verdict
from quotas.plans import Config
from quotas.settings import Settings

OK, WARNING, PROBLEM = Verdict
PLANS = "plans: {free: {limits: {b: {rate: 1/second}}}}\n"
SECRET = "correct-horse-battery"


def config(more: str = "") -> Config:
    return plan_files.parse(PLANS + more, "test")


def settings_of(**variables: str) -> Settings:
    found, told = config_health.read_settings({f"QUOTAS_{name}": value for name, value in variables.items()})
    assert findings.worst(told) is OK, told
    return found


def only(found: list[Finding]) -> tuple[Verdict, str]:
    (finding,) = found
    return finding.verdict, finding.message


class TestFindings:
    def test_the_worst_counts(self) -> None:
        good, bad, worse = findings.ok("a", "b"), findings.warning("a", "b", "c"), findings.problem("a", "b", "c")
        assert findings.worst([]) is OK
        assert findings.worst([good, bad]) is WARNING
        assert findings.worst([worse, bad, good]) is PROBLEM

    def test_what_is_wrong_comes_with_what_to_do(self) -> None:
        with pytest.raises(AssertionError, match="what to do"):
            findings.warning("a", "b", "")

    def test_it_is_one_line(self) -> None:
        finding = findings.problem("a\nb", "c\x1b[2J", "d\u202e")
        assert (finding.subject, finding.message, finding.advice) == ("a\\nb", "c\\x1b[2J", "d\\u202e")

    def test_of_many_names_some_are_told(self) -> None:
        assert findings.some("plan", []) == "no plan"
        assert findings.some("plan", ["a"]) == "1 plan (a)"
        assert findings.some("plan", ["a", "b", "c"]) == "3 plans (a, b, c)"
        assert findings.some("plan", ["a", "b", "c", "d", "e"]) == "5 plans (a, b, c and 2 more)"

    def test_each_fault_is_one(self) -> None:
        error = ConfigError("x", [Fault("a", "b"), Fault("c", "d")])
        assert [each.message for each in findings.of_faults("s", error, "do")] == ["a: b", "c: d"]


class TestSettings:
    def test_names_are_told_and_values_are_not(self) -> None:
        environment = {"QUOTAS_KEY_PEPPER": SECRET, "QUOTAS_ADMIN_TOKEN": SECRET, "QUOTAS_CONFIG": " ", "HOME": "/"}
        _, told = config_health.read_settings(environment)
        assert only(told) == (OK, "2 set: QUOTAS_ADMIN_TOKEN, QUOTAS_KEY_PEPPER")

    def test_every_fault_is_told_and_the_rest_is_read(self) -> None:
        environment = {"QUOTAS_LOG_LEVEL": "loud", "QUOTAS_KEY_PEPPER": "short", "QUOTAS_STORE_TIMEOUT_MS": "70"}
        found, told = config_health.read_settings(environment)
        assert found.store_timeout_ms == 70
        assert [each.verdict for each in told] == [PROBLEM, PROBLEM]
        assert {each.message.partition(":")[0] for each in told} == {"QUOTAS_LOG_LEVEL", "QUOTAS_KEY_PEPPER"}

    def test_tracing_that_cannot_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")
        _, told = config_health.read_settings({"QUOTAS_TRACES": "0.1"})
        assert [each.subject for each in told] == ["traces"]
        assert told[0].verdict is PROBLEM


class TestUnknownNames:
    def test_the_nearest_is_named(self) -> None:
        (finding,) = config_health.unknown_names({"QUOTAS_REDIS_URI": SECRET}, config())
        assert finding.verdict is WARNING
        assert "did you mean QUOTAS_REDIS_URL?" in finding.advice
        assert SECRET not in finding.message + finding.advice

    @pytest.mark.parametrize("name", ["QUOTA_CONFIG", "quotas_config", "Quotas_Config"])
    def test_misspelt_at_the_beginning(self, name: str) -> None:
        (finding,) = config_health.unknown_names({name: "x"}, config())
        assert "did you mean QUOTAS_CONFIG?" in finding.advice

    def test_like_nothing_that_there_is(self) -> None:
        (finding,) = config_health.unknown_names({"QUOTAS_ZZZZZZZZ": "x"}, config())
        assert "did you mean" not in finding.advice

    @pytest.mark.parametrize("name", ["HOST", "PORT", "WORKERS"])
    def test_flags(self, name: str) -> None:
        (finding,) = config_health.unknown_names({f"QUOTAS_{name}": "8080"}, config())
        assert f"--{name.lower()}" in finding.advice

    def test_what_kubernetes_sets_is_nobody_s_mistake(self) -> None:
        environment = {
            "QUOTAS_SERVICE_HOST": "10.0.0.1",
            "QUOTAS_SERVICE_PORT": "8080",
            "QUOTAS_SERVICE_PORT_HTTP": "8080",
            "QUOTAS_PORT": "tcp://10.0.0.1:8080",
            "QUOTAS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "QUOTAS_PORT_8080_TCP_PROTO": "tcp",
            "QUOTAS_PORT_8080_TCP_PORT": "8080",
            "QUOTAS_PORT_8080_TCP_ADDR": "10.0.0.1",
            "QUOTAS_ADMIN_SERVICE_HOST": "10.0.0.1",
        }
        assert config_health.unknown_names(environment, config()) == []

    def test_settings_and_others_names(self) -> None:
        assert config_health.unknown_names({"QUOTAS_CONFIG": "x", "QUOTASX": "y", "HOME": "z"}, config()) == []

    def test_secrets_that_the_plan_file_names(self) -> None:
        named = config(
            "issuers: [{issuer: 'https://id.example', audience: [api], algorithms: [HS256], secret_env: QUOTAS_HS}]\n"
            "decryption_keys: [{key_env: QUOTAS_JWE}]\n"
        )
        environment = {"QUOTAS_HS": SECRET, "QUOTAS_JWE": SECRET}
        assert config_health.unknown_names(environment, named) == []
        assert len(config_health.unknown_names(environment, config())) == 2


class TestPlans:
    def test_good(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(PLANS)
        read, told = config_health.read_plans(ConfigFile(path))
        assert read is not None
        assert only(told) == (OK, f"{path}: 1 plan (free)")

    def test_none(self) -> None:
        read, told = config_health.read_plans(ConfigFile(None))
        assert read is not None
        assert only(told)[0] is WARNING

    def test_not_there(self, tmp_path: Path) -> None:
        read, told = config_health.read_plans(ConfigFile(tmp_path / "plans.yaml"))
        assert read is None
        assert "cannot be read" in only(told)[1]

    def test_every_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(PLANS + "anonymous: {plan: gold}\nclients: {acme: {plan: silver}}\nheaders: none\n")
        read, told = config_health.read_plans(ConfigFile(path))
        assert read is None
        assert len(told) == 3
        assert {each.verdict for each in told} == {PROBLEM}

    def test_secrets_that_are_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "plans.yaml"
        path.write_text(PLANS + "decryption_keys: [{key_file: /no/such.pem}]\n")
        read, told = config_health.read_plans(ConfigFile(path))
        assert read is not None
        assert [each.verdict for each in told] == [OK, PROBLEM]
        assert "decryption_keys.0.key_file" in told[1].message


class TestTrust:
    @pytest.mark.parametrize("networks", ['["0.0.0.0/0"]', '["::/0"]', '["10.0.0.0/8", "0.0.0.0/1", "128.0.0.0/1"]'])
    def test_everybody(self, networks: str) -> None:
        (finding,) = config_health.trust(config(f"trusted_proxies: {networks}\n"), "127.0.0.1")
        assert finding.verdict is PROBLEM

    @pytest.mark.parametrize("networks", ["[]", '["10.0.0.0/8"]', '["0.0.0.0/1"]'])
    def test_some(self, networks: str) -> None:
        (finding,) = config_health.trust(config(f"trusted_proxies: {networks}\n"), "0.0.0.0")
        assert finding.verdict is OK

    def test_callers_without_a_credential_behind_a_gateway_elsewhere(self) -> None:
        open_to_all = "anonymous: {plan: free}\n"
        assert config_health.trust(config(open_to_all), "0.0.0.0")[0].verdict is WARNING
        assert config_health.trust(config(open_to_all), "127.0.0.1")[0].verdict is OK
        assert (
            config_health.trust(config(open_to_all + 'trusted_proxies: ["10.0.0.1/32"]\n'), "0.0.0.0")[0].verdict is OK
        )


def test_pepper() -> None:
    assert only(config_health.about_keys(settings_of()))[0] is OK
    assert only(config_health.about_keys(settings_of(KEY_PEPPER="p" * 16))) == (OK, "set")
    both = settings_of(KEY_PEPPER="p" * 16, KEY_PEPPER_PREVIOUS="none")
    assert only(config_health.about_keys(both)) == (OK, "set; keys of the one before stay valid")
    assert only(config_health.about_keys(settings_of(KEY_PEPPER_PREVIOUS="none")))[0] is WARNING


class TestAdmin:
    GOOD = "ci:" + "a" * 20

    def test_off(self) -> None:
        assert only(config_health.admin(settings_of(), host="127.0.0.1", port=8080))[0] is OK
        assert only(config_health.admin(settings_of(ADMIN_PORT="8081"), host="127.0.0.1", port=8080))[0] is WARNING

    def test_on(self) -> None:
        assert only(config_health.admin(settings_of(ADMIN_TOKEN=self.GOOD), host="127.0.0.1", port=8080)) == (
            OK,
            "at the service's port, 1 token (ci)",
        )

    def test_a_short_token(self) -> None:
        verdict, message = only(
            config_health.admin(settings_of(ADMIN_TOKEN=f"{self.GOOD},ops:topsecret"), host="127.0.0.1", port=8080)
        )
        assert (verdict, "ops" in message, "topsecret" in message) == (WARNING, True, False)

    def test_one_token_for_two(self) -> None:
        verdict, message = only(
            config_health.admin(settings_of(ADMIN_TOKEN=f"{self.GOOD},ops:{'a' * 20}"), host="127.0.0.1", port=8080)
        )
        assert (verdict, message) == (WARNING, "2 tokens (ci, ops): one and the same")

    def test_where_everybody_reaches_it(self) -> None:
        assert only(config_health.admin(settings_of(ADMIN_TOKEN=self.GOOD), host="0.0.0.0", port=8080))[0] is WARNING
        apart = settings_of(ADMIN_TOKEN=self.GOOD, ADMIN_PORT="8081")
        assert only(config_health.admin(apart, host="0.0.0.0", port=8080)) == (OK, "at port 8081, 1 token (ci)")

    def test_at_the_port_of_checks(self) -> None:
        assert (
            only(
                config_health.admin(settings_of(ADMIN_TOKEN=self.GOOD, ADMIN_PORT="8080"), host="127.0.0.1", port=8080)
            )[0]
            is PROBLEM
        )


def test_hot_road() -> None:
    assert only(config_health.road(settings_of()))[0] is OK
    assert only(config_health.road(settings_of(HOT_ROAD="0")))[0] is WARNING
