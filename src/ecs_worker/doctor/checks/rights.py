"""The rights of the worker, and the roles that jobs name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ecs_worker.doctor.asking import code
from ecs_worker.doctor.finding import Finding, Group, Line, Untold
from ecs_worker.iam.evaluate import trusts
from ecs_worker.iam.rights import ECS_TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ecs_worker.aws.iam import Role, Verdict
    from ecs_worker.iam.policy import Statement

ALLOWED = "allowed"
# The condition keys of our own statements: what needs them is asked with them.
_OUR_KEYS = {"ecs:CreateAction", "ecs:cluster", "iam:PassedToService", "kms:ViaService"}
_ANY = "ecs-worker-doctor"  # in place of what a pattern leaves open
_WORKER_POLICY = "`ecs-worker iam policy worker --pool {pool}` prints what the worker needs."
# What ECS does with an execution role, by the names of its statements in `iam/rights.py`.
_OF_EXECUTION = {
    "PullImages": "pulls images",
    "LogInToTheRegistry": "logs in to the registry",
    "MakeLogGroups": "creates log groups",
    "WriteContainerOutput": "writes logs",
    "ReadSecretsManager": "reads secrets",
    "ReadParameterStore": "reads parameters",
    "DecryptThem": "decrypts secrets",
    "ReadEnvironmentFiles": "reads environment files",
    "FindTheirBuckets": "finds their buckets",
}


@dataclass(frozen=True)
class Simulated:
    """What IAM would say to what a statement allows. `about`: the deployments that need it."""

    statement: Statement
    verdicts: tuple[Verdict, ...] | Untold


@dataclass(frozen=True)
class PrincipalFacts:
    """A worker's rights: of its own credentials, or of a role that it assumes. `arn` is a user's or role's."""

    arn: str
    rights: tuple[Simulated, ...]


@dataclass(frozen=True)
class RoleFacts:
    """A role that jobs name. `service` assumes it: for tasks, or for EBS volumes. `role` None: there is none."""

    arn: str
    service: str
    region: str
    account: str
    role: Role | Untold | None
    reads: tuple[Simulated, ...] = ()
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class RightsFacts:
    """What IAM says. `obstacle`: why it can't be asked, or what is needed can't be told. `notes`: what was left out."""

    pool: str = ""
    obstacle: str = ""
    principals: tuple[PrincipalFacts | Untold, ...] = ()
    roles: tuple[RoleFacts, ...] = ()
    notes: tuple[str, ...] = ()


def findings(facts: RightsFacts) -> Iterator[Finding]:
    """Of all checks of the group."""
    if facts.obstacle:
        yield Line(Group.RIGHTS, "worker").skipped(facts.obstacle)
        yield Line(Group.RIGHTS, "roles").skipped(facts.obstacle)
        return
    for principal in facts.principals:
        if isinstance(principal, Untold):
            yield Line(Group.RIGHTS, "worker").untold(principal)
        else:
            yield from of_principal(principal, facts.pool)
    for role in facts.roles:
        yield from of_role(role, facts.pool)
    for note in facts.notes:
        yield Line(Group.RIGHTS, "note").skipped(note.rstrip("."))


def of_principal(facts: PrincipalFacts, pool: str) -> Iterator[Finding]:
    """Each action that the worker needs, on all that it needs it for."""
    who = _short(facts.arn)
    if (untold := _all_untold(facts.rights)) is not None:
        yield Line(Group.RIGHTS, f"worker {who}").untold(untold)
        return
    found: dict[str, list[Verdict]] = {}
    for each in facts.rights:
        if isinstance(each.verdicts, Untold):
            yield Line(Group.RIGHTS, f"{', '.join(each.statement.actions)} by {who}").untold(each.verdicts)
            continue
        for verdict in each.verdicts:
            found.setdefault(verdict.action, []).append(verdict)
    for action, verdicts in found.items():
        yield allowed(Line(Group.RIGHTS, f"{action} by {who}"), verdicts, _WORKER_POLICY.format(pool=pool))


def allowed(line: Line, verdicts: Iterable[Verdict], policy: str) -> Finding:
    """Whether IAM allows it."""
    missing = [verdict for verdict in verdicts if verdict.decision != ALLOWED]
    if not missing:
        return line.ok("allowed")
    resources = ", ".join(dict.fromkeys(verdict.resource for verdict in missing))
    if unknown := sorted({key for verdict in missing for key in verdict.missing} - _OUR_KEYS):
        return line.warning(
            f"can't be told of {resources}: that hangs on {', '.join(unknown)}, which only real requests have",
            "Read the policies that ask for that, or see one run launched.",
        )
    if by := next((verdict.by for verdict in missing if verdict.by), ""):
        return line.failed(f"{by} doesn't allow it on {resources}", f"Allow it there, too. {policy}")
    if any(verdict.decision == "explicitDeny" for verdict in missing):
        return line.failed(f"a policy denies it on {resources}", "Take the Deny out of that policy, or narrow it.")
    return line.failed(f"not allowed on {resources}", f"Allow it: {policy}")


def of_role(facts: RoleFacts, pool: str) -> Iterator[Finding]:
    """Whether it is there, ECS may assume it, and it may do what ECS does with it."""
    name = _short(facts.arn)
    line = Line(Group.RIGHTS, f"role {name}", facts.about)
    if facts.arn.split(":")[4] != facts.account:
        yield line.failed(
            f"is of the account {facts.arn.split(':')[4]}, but tasks run in {facts.account}",
            "Name a role of the account that the tasks run in: no other can be passed.",
        )
        return
    yield exists(line, facts)
    if facts.role is None:
        return
    if (untold := _all_untold(facts.reads)) is not None:
        yield Line(Group.RIGHTS, f"rights of {name}", facts.about).untold(untold)
        return
    for each in facts.reads:
        line = Line(Group.RIGHTS, f"{name} {_OF_EXECUTION.get(each.statement.sid, each.statement.sid)}", facts.about)
        if isinstance(each.verdicts, Untold):
            yield line.untold(each.verdicts)
        else:
            policy = f"`ecs-worker iam policy execution --pool {pool} --role {name}` prints what it needs."
            found = allowed(line, each.verdicts, policy)
            actions = ", ".join(dict.fromkeys(each.action for each in each.verdicts if each.decision != ALLOWED))
            yield replace(found, told=f"{actions}: {found.told}") if actions else found


def exists(line: Line, facts: RoleFacts) -> Finding:
    """Whether there is such a role, and ECS may assume it."""
    if facts.role is None:
        return line.failed("there is no such role", "Make it, or correct the job variable that names it.")
    if isinstance(facts.role, Untold):
        return line.untold(facts.role)
    source = f"arn:{facts.arn.split(':')[1]}:ecs:{facts.region}:{facts.account}:task/{_ANY}"
    context = {"aws:SourceAccount": facts.account, "aws:SourceArn": source}
    try:
        trusted = trusts(facts.role.trust, facts.service, context)
    except (AttributeError, NotImplementedError, TypeError) as error:  # more than is known here, or no policy at all
        return line.warning(f"whom it trusts can't be told: {error}", "Compare it with iam/trust-policy.json.")
    if not trusted:
        file = "trust-policy.json" if facts.service == ECS_TASKS else "infrastructure-trust-policy.json"
        return line.failed(f"does not let {facts.service} assume it", f"Give it the trust policy of iam/{file}.")
    return line.ok(f"{facts.service} may assume it")


def concrete(resource: str) -> str:
    """One resource that the pattern stands for: IAM simulates requests, and those name no patterns."""
    if resource == "*":
        return resource
    if ":task-definition/" in resource:
        resource = re.sub(r":\*$", ":1", resource)
    resource = re.sub(r"(:log-group:[^*]+):\*$", rf"\1:log-stream:{_ANY}", resource)
    resource = resource.replace("-??????", "-a1B2c3")
    return resource.replace("*", _ANY).replace("?", "0")


def _all_untold(rights: Iterable[Simulated]) -> Untold | None:
    """Where nothing can be simulated, that is told once."""
    found = [each.verdicts for each in rights]
    untold = [each for each in found if isinstance(each, Untold)]
    return untold[0] if untold and len(untold) == len(found) and len({code(each) for each in untold}) == 1 else None


def _short(arn: str) -> str:
    return arn.rpartition("/")[2] or arn
