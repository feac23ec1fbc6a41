"""The script of the week, drawn from a seed: which runs there are, what they do, and what goes wrong meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

HOUR = 3600.0
DAY = 24 * HOUR
RUNS_A_DAY = 720
TROUBLES = frozenset(
    {
        "api-away",  # the Prefect API does not answer
        "api-slow",
        "api-broken",  # it answers nonsense
        "api-limit",  # it allows so many calls a minute
        "region-away",  # one account's ECS in one Region fails or hangs
        "aws-rough",  # some of AWS's answers fail or come in half
        "rotation",  # a block's credentials are replaced, and the old ones expire
        "full-cluster",
        "spot",  # AWS takes Spot tasks back
        "hosts-lost",  # the tasks of a host end without a word
        "clean-up",  # somebody deregisters or deletes task definitions
        "deployment-deleted",
        "worker-killed",
        "redeploy",  # all workers, one after the other
        "new-name",  # the worker with a --limit, which alone serves its queue, comes back under another name
    }
)
"""What may be left out of a week."""

# How often each kind of run comes, of a hundred.
_KINDS = {
    "completes": 62,
    "fails": 6,
    "dies": 4,
    "retries": 6,
    "suspends": 5,
    "cancelled": 8,
    "deleted": 3,
    "starts-late": 4,  # its first task can't start
    "never-starts": 2,
}
_DEPLOYMENTS = {
    "fast-east": 30,
    "fast-west": 14,
    "batch-east": 14,
    "batch-west": 12,
    "spot": 10,
    "slots": 8,
    "limited": 6,
    "crowded": 6,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: `at` is when it is due, in seconds of the week. It works for `seconds`.

    `then` is when the rest follows: the user's order after the due time, or the retry or the resumption after the
    flow said that it waits. `heeds`: the flow cancels itself.
    """

    name: str
    at: float
    deployment: str
    kind: str
    seconds: float
    then: float = 0.0
    heeds: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong at a time, and for how long; `number` (0 to 1) decides the rest of it."""

    at: float
    kind: str
    seconds: float
    number: float


@dataclass(frozen=True)
class Script:
    """All that is planned."""

    seed: int
    days: float
    without: frozenset[str] = frozenset()
    plans: list[Plan] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    guests: list[tuple[float, float, str]] = field(default_factory=list)  # deployments: made, deleted, name


def draw(seed: int, days: float, *, without: frozenset[str] = frozenset()) -> Script:
    """The script of that seed."""
    if unknown := without - TROUBLES:
        raise ValueError(f"There is no trouble called {', '.join(sorted(unknown))}; choose of {sorted(TROUBLES)}.")
    chance = random.Random(seed)  # noqa: S311 - a script of events, not a secret
    script = Script(seed, days, without)
    _plan_runs(script, chance)
    _plan_troubles(script, chance)
    _plan_guests(script, chance)
    left = [trouble for trouble in script.troubles if trouble.kind not in without]
    script.troubles[:] = sorted(left, key=lambda trouble: trouble.at)
    if "deployment-deleted" in without:
        script.guests.clear()
        script.plans[:] = [plan for plan in script.plans if not plan.deployment.startswith("guest")]
    script.plans.sort(key=lambda plan: plan.at)
    return script


def _plan_runs(script: Script, chance: random.Random) -> None:
    """Single runs all day, fewer at night, and a burst every few hours."""
    number = int(RUNS_A_DAY * script.days)
    moments: list[tuple[float, str | None]] = []
    while len(moments) < number * 0.7:
        at = chance.uniform(0, script.days * DAY)
        if chance.random() < (1.0 if 7 <= at % DAY / HOUR < 20 else 0.4):
            moments.append((at, None))
    while len(moments) < number:
        burst, theirs = chance.uniform(0, script.days * DAY), _weighted(chance, _DEPLOYMENTS)
        moments += [(burst, theirs)] * chance.randint(3, 8 if theirs in {"limited", "slots"} else 40)
    for serial, (at, deployment) in enumerate(moments):
        script.plans.append(_plan(chance, f"r{serial:05}", at, deployment or _weighted(chance, _DEPLOYMENTS)))


def _plan(chance: random.Random, name: str, at: float, deployment: str) -> Plan:
    kind = _weighted(chance, _KINDS)
    seconds = chance.uniform(2, 60) if chance.random() < 0.5 else chance.uniform(60, 900)
    if chance.random() < 0.02:
        seconds = chance.uniform(1, 4) * HOUR
    if deployment in {"limited", "slots"}:
        seconds = min(seconds, 300.0)
    then = {
        "cancelled": chance.choice([chance.uniform(-60, 30), chance.uniform(30, 600)]),
        "deleted": chance.choice([chance.uniform(-60, 30), chance.uniform(30, 600)]),
        "retries": chance.choice([chance.uniform(5, 60), chance.uniform(600, 3600)]),
        "suspends": chance.uniform(60, 2 * HOUR),
    }.get(kind, 0.0)
    return Plan(name, at, deployment, kind, seconds, then, heeds=chance.random() < 0.6)


def _plan_troubles(script: Script, chance: random.Random) -> None:
    """So many a day, each for so long (seconds)."""
    for kind, a_day, shortest, longest in (
        ("redeploy", 3.0, 60, 240),  # between two workers
        ("worker-killed", 4.0, 2, 120),  # until the next one starts
        ("api-away", 2.0, 20, 480),
        ("api-slow", 1.5, 300, 1800),
        ("api-broken", 1.5, 120, 900),
        ("api-limit", 1.0, 1800, 7200),
        ("region-away", 2.0, 60, 600),
        ("aws-rough", 2.0, 600, 3600),
        ("rotation", 3.0, 0, 600),  # until the old credentials expire
        ("full-cluster", 1.5, 300, 2400),
        ("spot", 5.0, 0, 0),
        ("hosts-lost", 3.0, 0, 0),
        ("clean-up", 2.0, 0, 0),
    ):
        for _ in range(round(a_day * script.days)):
            at, seconds = chance.uniform(0.02, 0.95) * script.days * DAY, chance.uniform(shortest, longest)
            script.troubles.append(Trouble(at, kind, seconds, chance.random()))


def _plan_guests(script: Script, chance: random.Random) -> None:
    """Deployments that are deleted while some of their runs wait and others run."""
    for number in range(max(1, round(script.days))):
        made = chance.uniform(0.05, 0.85) * script.days * DAY
        name, deleted = f"guest-{number}", made + chance.uniform(600, 3600)
        script.guests.append((made, deleted, name))
        for serial in range(chance.randint(4, 10)):
            at = chance.uniform(made + 1, deleted + 120)
            plan = _plan(chance, f"g{number:03}{serial:02}", at, name)
            script.plans.append(plan)


def _weighted(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
