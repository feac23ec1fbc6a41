"""What a role is allowed, held against what it needs.

Policies hold patterns, and so do needs (`family:*`). Whether one pattern covers another is told for all texts at once.
What can't be judged without a request (conditions on keys that needs say nothing of) is told as such.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ecs_worker.iam.policy import Statement


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as IAM holds it, under the name that a finding gives it."""

    name: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One sentence for each thing. `unsure`: what is needed and allowed under conditions that can't be judged here."""

    missing: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


class _Answer(Enum):
    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class _Right:
    """One action on one resource; `context`: what the request's condition keys (in small letters) then hold."""

    action: str
    resource: str
    context: Mapping[str, str]

    def __str__(self) -> str:
        by = ", ".join(self.context.values())
        return f"{self.action} on {self.resource}" + (f" ({by})" if by else "")


def difference(
    granted: Sequence[Policy], needed: Sequence[Statement], boundary: Policy | None = None, *, anywhere: bool = False
) -> Difference:
    """How the policies of a role differ from what it needs.

    `boundary`: the role's permissions boundary, beyond which its policies count for nothing. `anywhere`: only the
    actions are compared, on whatever resource.
    """
    missing, unsure = dict[str, None](), dict[str, None]()  # in their order, each once
    for right in _rights(needed, anywhere=anywhere):
        answer, why = _judged(right, granted, anywhere=anywhere)
        if boundary is not None and answer is not _Answer.NO:
            within, limit = _judged(right, [boundary], anywhere=anywhere)
            if within.value < answer.value:
                answer, why = within, limit or f"outside of the permissions boundary {boundary.name}"
        told = right.action if anywhere else str(right)
        if answer is not _Answer.YES:
            (missing if answer is _Answer.NO else unsure)[f"{told}: {why}" if why else told] = None
    more = dict.fromkeys(_more(granted, needed, anywhere=anywhere))
    return Difference(tuple(missing), tuple(unsure), tuple(more))


def _rights(needed: Iterable[Statement], *, anywhere: bool) -> Iterator[_Right]:
    for statement in needed:
        if anywhere:
            yield from (_Right(action, "*", {}) for action in statement.actions)
            continue
        keys = [(key.lower(), values) for each in statement.conditions.values() for key, values in each.items()]
        for values in product(*(values for _, values in keys)):
            context = {key: value for (key, _), value in zip(keys, values, strict=True)}
            for action, resource in product(statement.actions, statement.resources):
                if together(resource, context):
                    yield _Right(action, resource, context)


def together(resource: str, context: Mapping[str, str]) -> bool:
    """Whether one request can be about both: a resource and a cluster of one Region, a task and its own cluster."""
    cluster = context.get("ecs:cluster")
    if cluster is None or resource == "*":
        return True
    if ":task/" in resource:
        return resource == cluster.replace(":cluster/", ":task/") + "/*"
    return resource.split(":")[3:5] == cluster.split(":")[3:5]


def _judged(right: _Right, policies: Iterable[Policy], *, anywhere: bool) -> tuple[_Answer, str]:
    """Whether the policies allow it, and why not, or not surely."""
    best, why, doubt = _Answer.NO, "", ""
    for policy, statement in _statements(policies):
        denies = statement.get("Effect") == "Deny"
        about = _about(statement, right, anywhere=anywhere)
        held = _Answer.YES if anywhere and not denies else _held(statement, right)
        if about is _Answer.NO or held is _Answer.NO:
            continue
        sure = about is held is _Answer.YES
        if denies and sure:
            return _Answer.NO, f"denied by the policy {policy.name}"
        if denies:
            doubt = f"the policy {policy.name} denies a part of it, or denies it under conditions{_told(statement)}"
        elif about is _Answer.YES and held.value > best.value:
            best = held
            why = "" if sure else f"the policy {policy.name} allows it only under conditions{_told(statement)}"
    return (_Answer.MAYBE, doubt) if best is _Answer.YES and doubt else (best, why)


def _about(statement: Mapping[str, Any], right: _Right, *, anywhere: bool) -> _Answer:
    """Whether the statement speaks of all that the right stands for; MAYBE: of a part of it."""
    if not _of_action(statement, right.action):
        return _Answer.NO
    if "NotResource" in statement:
        left_out = _listed(statement["NotResource"])
        if any(covers(pattern, right.resource) for pattern in left_out):
            return _Answer.NO
        return _Answer.MAYBE if any(overlaps(pattern, right.resource) for pattern in left_out) else _Answer.YES
    patterns = _listed(statement.get("Resource"))
    if any(covers(pattern, right.resource) for pattern in patterns):
        return _Answer.YES
    if anywhere:  # allowed somewhere is enough; denied somewhere says nothing of the rest
        return _Answer.NO if statement.get("Effect") == "Deny" else _Answer.YES
    return _Answer.MAYBE if any(overlaps(pattern, right.resource) for pattern in patterns) else _Answer.NO


def _of_action(statement: Mapping[str, Any], action: str) -> bool:
    if "NotAction" in statement:
        return not any(covers(pattern.lower(), action.lower()) for pattern in _listed(statement["NotAction"]))
    return any(covers(pattern.lower(), action.lower()) for pattern in _listed(statement.get("Action")))


def _held(statement: Mapping[str, Any], right: _Right) -> _Answer:
    """Whether the statement's conditions hold for the right."""
    answers = [_Answer.YES]
    for operator, keys in (statement.get("Condition") or {}).items():
        for key, values in keys.items():
            value = right.context.get(key.lower())
            answers.append(_Answer.MAYBE if value is None else _compared(operator, _listed(values), value))
    return min(answers, key=lambda answer: answer.value)


def _compared(operator: str, values: Sequence[str], value: str) -> _Answer:
    # A variable (${aws:PrincipalTag/…}) may stand for anything.
    if not _demands(operator) or any("${" in pattern for pattern in values):
        return _Answer.MAYBE
    literal = "StringEquals" in operator
    fits = (pattern == value if literal else covers(pattern, value) for pattern in values)
    return _Answer.YES if any(fits) else _Answer.NO


def _demands(operator: str) -> bool:
    """Whether the operator says which values must be there. Others can't be judged here."""
    name = operator.rpartition(":")[2].removesuffix("IfExists")
    return name in {"StringEquals", "StringLike", "ArnEquals", "ArnLike"}


def _told(statement: Mapping[str, Any]) -> str:
    conditions = (f"{operator} {key}" for operator, keys in (statement.get("Condition") or {}).items() for key in keys)
    told = ", ".join(conditions)
    return f" ({told})" if told else ""


def _more(granted: Iterable[Policy], needed: Sequence[Statement], *, anywhere: bool) -> Iterator[str]:
    """What is allowed and not needed."""
    for policy, statement in _statements(granted):
        if statement.get("Effect") == "Deny":
            continue
        where = f"in the policy {policy.name}"
        if "NotAction" in statement:
            yield f"all actions but {', '.join(_listed(statement['NotAction']))}, {where}"
            continue
        resources = _listed(statement.get("Resource")) or ["*"]  # NotResource: nearly all
        for action, resource in product(_listed(statement.get("Action")), resources):
            asked = [each for each in needed if action.lower() in {known.lower() for known in each.actions}]
            if not asked:
                yield f"{action}{'' if anywhere else f' on {resource}'}, {where}"
            elif not anywhere:
                fitting = [each for each in asked if any(covers(known, resource) for known in each.resources)]
                if not fitting:
                    yield f"{action} on {resource}, {where}"
                elif lacking := _lacking(statement, fitting):
                    yield f"{action} on {resource} without the condition {lacking}, {where}"


def _lacking(statement: Mapping[str, Any], needed: Iterable[Statement]) -> str:
    """The conditions under which it is needed, if it is allowed without them; empty: it is not allowed further."""
    given = {
        key.lower(): _listed(values)
        for operator, keys in (statement.get("Condition") or {}).items()
        if _demands(operator)
        for key, values in keys.items()
    }
    wanted = []
    for each in needed:
        conditions = [(key, values) for keys in each.conditions.values() for key, values in keys.items()]
        if all(
            key.lower() in given and all(any(covers(value, found) for value in values) for found in given[key.lower()])
            for key, values in conditions
        ):
            return ""
        wanted.append(", ".join(f"{key} {' or '.join(values)}" for key, values in conditions))
    return "; or ".join(wanted)


def _statements(policies: Iterable[Policy]) -> Iterator[tuple[Policy, Mapping[str, Any]]]:
    for policy in policies:
        statements = policy.document.get("Statement") or []
        for statement in [statements] if isinstance(statements, dict) else statements:
            yield policy, statement


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]


def covers(pattern: str, other: str) -> bool:
    """Whether `pattern` (with `*` and `?`) fits every text that `other` fits."""
    return _compiled(pattern).fullmatch(other) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if part == "*" else "[^*]" if part == "?" else re.escape(part) for part in pattern)
    return re.compile("".join(parts), re.DOTALL)


def overlaps(one: str, other: str) -> bool:
    """Whether some text fits both patterns."""
    seen, ahead = set[tuple[int, int]](), [(0, 0)]
    while ahead:
        at, there = here = ahead.pop()
        if here in seen:
            continue
        seen.add(here)
        if not one[at:].strip("*") and not other[there:].strip("*"):
            return True
        a, b = one[at : at + 1], other[there : there + 1]
        if "*" in (a, b):
            ahead += [(at + 1, there)] * bool(a) + [(at, there + 1)] * bool(b)
        if a and b and (a == b or not {a, b}.isdisjoint("?*")):
            ahead.append((at + 1, there + 1))
    return False
