"""`rotation`: keys are replaced under load, on two workers."""

import secrets

from loadtests.stage import PATIENT, Options, stage
from loadtests.verdicts import rotation
from loadtests.verdicts.rotation import Rotation
from loadtests.verdicts.verdict import Check, Verdict
from quotas.operations import Operations

PLANS = "plans: {wide: {limits: {yearly: {quota: 1000000/year}}}}"
UNITS = 1_000_000
SECONDS = 15
CLIENTS = 10
GRACE_S = 1
WORKERS = 2


def play(options: Options) -> Verdict:
    """Play it."""
    names = [f"holder-{number:02}" for number in range(1, CLIENTS + 1)]
    token = secrets.token_urlsafe(32)
    more = {**PATIENT, "QUOTAS_ADMIN_TOKEN": f"load:{token}"}
    with stage(PLANS, options, workers=WORKERS, more=more) as on:
        issued = on.enrol(dict.fromkeys(names, "wide"))
        keys = {name: {"id": each.key.id, "key": each.secret} for name, each in issued.items()}
        told = {"keys": keys, "token": token, "grace_s": GRACE_S}
        seconds = options.seconds or SECONDS
        left = on.load("rotation", told=told, users=2 * CLIENTS + 1, seconds=seconds, options=options)

        async def look(operations: Operations) -> tuple[dict[str, int], dict[str, str]]:
            """When each key ends, and a key of each client that has not."""
            ends = {}
            for name in names:
                for key in await operations.clients.keys_of(name):
                    if key.expires_at_us is not None:
                        ends[key.id] = key.expires_at_us
            return ends, {name: (await operations.clients.issue_key(name)).secret for name in names}

        ends, living = on.operate(look)
        used = {name: UNITS - on.service.usage(key)["yearly"]["remaining"] for name, key in living.items()}
    checks = [Check(*row) for row in left["checks"]]
    return rotation.judge(checks, [Rotation(*row) for row in left["rotations"]], ends=ends, grace_s=GRACE_S, used=used)
