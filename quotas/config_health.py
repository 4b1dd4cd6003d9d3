"""Whether what the operator has written can be used: the environment and the plan file. Nobody is asked.

A setting that cannot be read counts as unset from there on. No finding has a value of a setting in it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from itertools import chain
from pathlib import Path

from quotas import app as composition
from quotas import findings, settings
from quotas.configuration import ConfigFile
from quotas.errors import ConfigError
from quotas.findings import Finding, ok, problem, some, warning
from quotas.issuers import SharedSecret, is_loopback
from quotas.jwks import read_decryption_keys
from quotas.plans import LOOPBACK, Config
from quotas.settings import Settings

GOOD_TOKEN = 20
"""Characters of an admin token that nobody guesses."""

_FLAGS = {"QUOTAS_HOST": "--host", "QUOTAS_PORT": "--port", "QUOTAS_WORKERS": "--workers"}
_OURS = re.compile(r"QUOTAS?_\w+", re.IGNORECASE)

# What Kubernetes sets in every pod beside a service whose name begins with quotas.
_SERVICE = re.compile(r"QUOTAS\w*?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


def read_settings(environment: Mapping[str, str]) -> tuple[Settings, list[Finding]]:
    """The settings, those that cannot be read left out, and what there is to say of them."""
    known = {name: value for name, value in environment.items() if name in settings.names()}
    faults: list[Finding] = []
    try:
        found = settings.load(known)
    except ConfigError as error:
        faults = findings.of_faults("settings", error, "mend the variable, or take it out of the environment")
        bad = {fault.path for fault in error.faults}
        found = settings.load({name: value for name, value in known.items() if name not in bad})
    try:
        composition.check_tracing(found)
    except ConfigError as error:
        faults += findings.of_faults("traces", error, "mend the variable, or unset QUOTAS_TRACES to trace nothing")
    names = sorted(name for name, value in known.items() if value.strip())
    return found, faults or [ok("settings", f"{len(names)} set: {', '.join(names)}" if names else "all as by default")]


def unknown_names(environment: Mapping[str, str], config: Config | None) -> list[Finding]:
    """Variables that look like settings and are none, such as misspelt ones. Their values are not told."""
    known = settings.names() | _secret_names(config)
    found = []
    for name, value in sorted(environment.items()):
        if name in known or not _OURS.fullmatch(name) or _SERVICE.fullmatch(name) or _SERVICE_URL.match(value):
            continue
        if flag := _FLAGS.get(name):
            advice = f"say {flag} to `quotas serve` instead"
        elif near := get_close_matches(name.upper(), sorted(known), n=1):
            advice = f"did you mean {near[0]}? Else take it out of the environment"
        else:
            advice = "take it out of the environment; README.md lists the settings"
        found.append(warning("settings", f"{name} is no setting, and is not looked at", advice))
    return found


def _secret_names(config: Config | None) -> frozenset[str]:
    """The variables that a plan file names as secrets."""
    if config is None:
        return frozenset()
    shared = (each.keys.variable for each in config.issuers.values() if isinstance(each.keys, SharedSecret))
    private = (each.variable for each in config.decryption_keys if each.variable is not None)
    return frozenset(chain(shared, private))


def read_plans(file: ConfigFile) -> tuple[Config | None, list[Finding]]:
    """The plan file, None when it cannot be used, and what there is to say of it."""
    try:
        config = file.read()
    except ConfigError as error:
        advice = f"mend {file.source}; a running service keeps what it read before"
        return None, findings.of_faults("plan file", error, advice)
    told = f"{config.source}: {some('plan', list(config.plans))}"
    found = [ok("plan file", told)]
    if file.path is None:
        advice = "copy the starter to quotas.yaml and change it, or set QUOTAS_CONFIG"
        found = [warning("plan file", f"there is none: {told}", advice)]
    try:
        read_decryption_keys(config.decryption_keys, settings.secrets(), Path.cwd())
    except ConfigError as error:
        found += findings.of_faults("secrets", error, "have the file or the variable hold the private key")
    return config, found


def trust(config: Config, host: str) -> list[Finding]:
    """Whose word on costs and callers is taken."""
    subject = "trusted proxies"
    networks = config.trusted_proxies.networks
    four = collapse_addresses([each for each in networks if isinstance(each, IPv4Network)])
    six = collapse_addresses([each for each in networks if isinstance(each, IPv6Network)])
    if all_of := [str(each) for each in chain[IPv4Network | IPv6Network](four, six) if each.prefixlen == 0]:
        told = f"everybody is one ({', '.join(all_of)}): whoever reaches this service says what a check costs, 0 too"
        return [problem(subject, told, "have `trusted_proxies` name the gateways' addresses alone")]
    if config.anonymous is not None and config.trusted_proxies == LOOPBACK and not is_loopback(host):
        told = "only this machine: behind a gateway elsewhere all callers without a credential count as that gateway"
        return [warning(subject, told, "have `trusted_proxies` name the gateways' addresses")]
    return [ok(subject, some("network", [str(each) for each in networks]))]


def about_keys(found: Settings) -> list[Finding]:
    """The pepper of key digests."""
    if found.key_pepper is None and found.key_pepper_previous:
        told = "QUOTAS_KEY_PEPPER_PREVIOUS is set and QUOTAS_KEY_PEPPER is not: new keys have none"
        return [warning("pepper", told, "set QUOTAS_KEY_PEPPER, or unset both if no key was made under one")]
    if found.key_pepper is None:
        return [ok("pepper", "none: keys are kept as SHA-256, from which 178 random bits cannot be guessed")]
    told = "; keys of the one before stay valid" if found.key_pepper_previous else ""
    return [ok("pepper", f"set{told}")]


def admin(found: Settings, *, host: str, port: int) -> list[Finding]:
    """The admin API: whether it is there, who may use it, and where."""
    subject, tokens = "admin API", found.admin_token
    if not tokens:
        if found.admin_port is None:
            return [ok(subject, "off: QUOTAS_ADMIN_TOKEN is not set")]
        advice = "set QUOTAS_ADMIN_TOKEN, or unset QUOTAS_ADMIN_PORT"
        return [warning(subject, "QUOTAS_ADMIN_PORT is set without QUOTAS_ADMIN_TOKEN: there is no admin API", advice)]
    told = []
    if short := [name for name, token in tokens.items() if len(token) < GOOD_TOKEN]:
        advice = "make them anew with `openssl rand -hex 32`"
        told.append(warning(subject, f"{some('token', short)}: shorter than {GOOD_TOKEN} characters", advice))
    times = Counter(tokens.values())
    if same := [name for name, token in tokens.items() if times[token] > 1]:
        advice = "give everyone a token of their own: the first of these names is in the audit log for all of them"
        told.append(warning(subject, f"{some('token', same)}: one and the same", advice))
    if found.admin_port is None and not is_loopback(host):
        advice = "set QUOTAS_ADMIN_PORT, and let only operators reach that port"
        told.append(warning(subject, "whoever reaches checks reaches it: it is at the same port", advice))
    if found.admin_port == port:
        told.append(problem(subject, f"both it and checks are to be at port {port}", "choose another port"))
    where = "the service's port" if found.admin_port is None else f"port {found.admin_port}"
    return told or [ok(subject, f"at {where}, {some('token', list(tokens))}")]


def road(found: Settings) -> list[Finding]:
    """Whether checks are answered in the fast way."""
    if found.hot_road:
        return [ok("hot road", "on")]
    return [warning("hot road", "off: every check costs several times as much", "unset QUOTAS_HOT_ROAD")]
