"""Settings from the environment: defaults, each variable's bounds, all faults at once, no secret shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import settings
from quotas.errors import ConfigError
from quotas.settings import LogFormat, Settings

PEPPER = "sixteen bytes at least"


def load(**variables: str) -> Settings:
    return settings.load({f"QUOTAS_{name}": value for name, value in variables.items()})


def faults(**variables: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    assert caught.value.source == "environment"
    return {fault.path: fault.message for fault in caught.value.faults}


def test_with_nothing_set_everything_has_a_default() -> None:
    assert settings.load({}) == Settings(
        config=None,
        redis_url=None,
        data_dir=Path(".quotas"),
        key_brand="quotas",
        key_pepper=None,
        store_timeout_ms=50,
        log_level="info",
        log_format=LogFormat.CONSOLE,
        log_refusals=1,
        traces=None,
    )


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("CONFIG", "/etc/quotas.yaml", "config", Path("/etc/quotas.yaml")),
        ("REDIS_URL", "redis://h:6379/0", "redis_url", "redis://h:6379/0"),
        ("REDIS_URL", "rediss://user:pass@h", "redis_url", "rediss://user:pass@h"),
        ("REDIS_URL", "unix:///run/valkey.sock", "redis_url", "unix:///run/valkey.sock"),
        ("REDIS_URL", "redis+sentinel://h,i/main", "redis_url", "redis+sentinel://h,i/main"),
        ("REDIS_URL", "rediss+cluster://h,i", "redis_url", "rediss+cluster://h,i"),
        ("DATA_DIR", "/var/lib/quotas", "data_dir", Path("/var/lib/quotas")),
        ("KEY_BRAND", "acme2", "key_brand", "acme2"),
        ("KEY_BRAND", "ab", "key_brand", "ab"),
        ("KEY_BRAND", "a" * 20, "key_brand", "a" * 20),
        ("KEY_PEPPER", "x" * 16, "key_pepper", b"x" * 16),
        ("KEY_PEPPER", "\u00e9" * 8, "key_pepper", ("\u00e9" * 8).encode()),
        ("STORE_TIMEOUT_MS", "1", "store_timeout_ms", 1),
        ("STORE_TIMEOUT_MS", "60000", "store_timeout_ms", 60_000),
        ("STORE_TIMEOUT_MS", " 250 ", "store_timeout_ms", 250),
        ("HOT_ROAD", "0", "hot_road", False),
        ("HOT_ROAD", "1", "hot_road", True),
        ("REMEMBERED", "1", "remembered", 1),
        ("REMEMBERED", "100000000", "remembered", 100_000_000),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("LOG_FORMAT", "JSON", "log_format", LogFormat.JSON),
        ("LOG_FORMAT", "console", "log_format", LogFormat.CONSOLE),
        ("LOG_REFUSALS", "0", "log_refusals", 0),
        ("TRACES", "0", "traces", 0.0),
        ("TRACES", "1", "traces", 1.0),
        ("TRACES", "0.01", "traces", 0.01),
        ("LOG_REFUSALS", "1000", "log_refusals", 1000),
    ],
)
def test_a_good_value_is_read(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(load(**{name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("REDIS_URL", "localhost:6379", "must start with redis://, rediss://, redis+sentinel://, redis+cluster:// or"),
        ("REDIS_URL", "redis+ring://h", "must start with"),
        ("REDIS_URL", "http://h", "must start with"),
        ("REDIS_URL", "redis://", "name a server"),
        ("KEY_BRAND", "a", "2 to 20"),
        ("KEY_BRAND", "a" * 21, "2 to 20"),
        ("KEY_BRAND", "Acme", "lower-case"),
        ("KEY_BRAND", "2acme", "the first a letter"),
        ("KEY_BRAND", "ac_me", "letters and digits"),
        ("KEY_BRAND", "\u00e4cme", "lower-case"),
        ("KEY_PEPPER", "x" * 15, "at least 16 bytes"),
        ("LOG_FORMAT", "xml", "console or json"),
        ("TRACES", "1.1", "between 0 and 1"),
        ("TRACES", "-0.1", "between 0 and 1"),
        ("TRACES", "nan", "between 0 and 1"),
        ("TRACES", "on", "between 0 and 1"),
        ("LOG_REFUSALS", "1001", "between 0 and 1000"),
        ("LOG_REFUSALS", "-1", "between 0 and 1000"),
        ("LOG_REFUSALS", "0.5", "between 0 and 1000"),
        ("STORE_TIMEOUT_MS", "0", "between 1 and 60000"),
        ("STORE_TIMEOUT_MS", "60001", "between 1 and 60000"),
        ("STORE_TIMEOUT_MS", "-1", "between 1 and 60000"),
        ("STORE_TIMEOUT_MS", "1.5", "whole number"),
        ("STORE_TIMEOUT_MS", "50ms", "whole number"),
        ("STORE_TIMEOUT_MS", "\u0663", "whole number"),
        ("STORE_TIMEOUT_MS", "9" * 5_000, "between 1 and 60000"),
        ("HOT_ROAD", "yes", "1 (on) or 0 (off)"),
        ("REMEMBERED", "0", "between 1 and 100000000"),
        ("REMEMBERED", "100000001", "between 1 and 100000000"),
        ("REMEMBERED", "1e6", "whole number"),
        ("LOG_LEVEL", "warn", "debug, info, warning or error"),
        ("LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
def test_a_bad_value_is_a_fault_of_its_variable(name: str, value: str, message: str) -> None:
    (found,) = faults(**{name: value}).items()
    assert found[0] == f"QUOTAS_{name}"
    assert message in found[1]


def test_all_faults_are_told_at_once() -> None:
    found = faults(REDIS_URL="x", KEY_BRAND="A", KEY_PEPPER="short", STORE_TIMEOUT_MS="no", LOG_LEVEL="no", CONFIG="ok")
    assert list(found) == [
        f"QUOTAS_{name}" for name in ("REDIS_URL", "KEY_BRAND", "KEY_PEPPER", "STORE_TIMEOUT_MS", "LOG_LEVEL")
    ]


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_unset(value: str) -> None:
    names = ("CONFIG", "REDIS_URL", "DATA_DIR", "KEY_BRAND", "KEY_PEPPER", "STORE_TIMEOUT_MS", "HOT_ROAD", "LOG_LEVEL")
    assert load(**dict.fromkeys(names, value)) == Settings()


def test_what_kubernetes_and_others_set_is_not_looked_at() -> None:
    """A service that is called quotas has `QUOTAS_PORT` in every pod beside it."""
    environment = {"QUOTAS_PORT": "tcp://10.0.0.1:8080", "QUOTAS_SERVICE_HOST": "x", "quotas_key_brand": "A"}
    assert settings.load(environment) == Settings()


def test_no_secret_is_in_a_repr() -> None:
    """Case C33."""
    loaded = load(REDIS_URL="redis://user:hunter22@h/0", KEY_PEPPER=PEPPER)
    assert "hunter22" not in repr(loaded)
    assert PEPPER not in repr(loaded)


@pytest.mark.parametrize(
    ("name", "value"),
    [("REDIS_URL", "user:hunter22@h"), ("KEY_PEPPER", "hunter22"), ("KEY_PEPPER", "hunter22 and more\udcfe")],
)
def test_no_secret_is_in_a_fault(name: str, value: str) -> None:
    """Not a character of it: the last one is what Python makes of a variable that is no UTF-8."""
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    told = f"{caught.value!r} {caught.value}"
    assert "hunter22" not in told
    assert "udcfe" not in told


@given(st.dictionaries(st.sampled_from(list(Settings.__dataclass_fields__)), st.text(max_size=30)))
def test_arbitrary_values_give_settings_or_faults(values: dict[str, str]) -> None:
    try:
        load(**{name.upper(): value for name, value in values.items()})
    except ConfigError as error:
        assert {fault.path for fault in error.faults} <= {f"QUOTAS_{name.upper()}" for name in values}  # noqa: PT017 # Both ends are right here.


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("s3cretive", {"admin": "s3cretive"}),
        ("ci:s3cretive", {"ci": "s3cretive"}),
        ("ci:s3cretive, ops@example.com:0therwise==", {"ci": "s3cretive", "ops@example.com": "0therwise=="}),
        ("ci:s3cretive\nops:0therwise", {"ci": "s3cretive", "ops": "0therwise"}),
    ],
)
def test_admin_tokens_have_names(text: str, tokens: dict[str, str]) -> None:
    assert load(ADMIN_TOKEN=text).admin_token == tokens
    assert all(token not in repr(load(ADMIN_TOKEN=text)) for token in tokens.values())


@pytest.mark.parametrize("text", ["short", "ci:short", "a b:s3cretive", "ci:s3cretive,ci:0therwise", "ci:s3cr$tive"])
def test_bad_admin_tokens_are_a_fault_that_quotes_none(text: str) -> None:
    with pytest.raises(ConfigError, match="QUOTAS_ADMIN_TOKEN") as caught:
        load(ADMIN_TOKEN=text)
    assert not any(part in str(caught.value) for part in ("short", "s3cr", "0therwise"))


@pytest.mark.parametrize(("text", "port"), [("9090", 9090), ("65535", 65_535), ("tcp://10.0.0.1:80", None)])
def test_an_admin_port_is_a_port(text: str, port: int | None) -> None:
    assert load(ADMIN_PORT=text).admin_port == port


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", "80.0"])
def test_what_is_no_port_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="QUOTAS_ADMIN_PORT: must be a port"):
        load(ADMIN_PORT=text)


@pytest.mark.parametrize(("text", "peppers"), [("none", (None,)), (PEPPER, (PEPPER.encode(),))])
def test_the_previous_pepper_may_be_none_at_all(text: str, peppers: tuple[bytes | None, ...]) -> None:
    assert load(KEY_PEPPER_PREVIOUS=text).key_pepper_previous == peppers
