"""What IAM says to one request, by the policies of whoever makes it.

The rules are those of the IAM user guide, "Policy evaluation logic": denied unless allowed, and a Deny wins. Policies
may hold patterns; a request is about one action and one resource, and its condition keys have values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Request:
    """One action on one resource. `context`: the condition keys that the request has; one may have several values."""

    action: str
    resource: str = "*"
    context: Mapping[str, str | list[str]] = field(default_factory=dict)


class Decision(StrEnum):
    """In the words of SimulatePrincipalPolicy."""

    ALLOWED = "allowed"
    EXPLICIT_DENY = "explicitDeny"
    IMPLICIT_DENY = "implicitDeny"


def decide(
    policies: Iterable[Mapping[str, Any]], request: Request, boundary: Mapping[str, Any] | None = None
) -> Decision:
    """What the policies say. `boundary`: a permissions boundary, which must allow the request, too.

    Raises NotImplementedError for a condition's operator that isn't known here: it is not guessed.
    """
    said = _said(policies, request)
    limit = _said([boundary], request) if boundary is not None else Decision.ALLOWED
    if Decision.EXPLICIT_DENY in {said, limit}:
        return Decision.EXPLICIT_DENY
    return Decision.ALLOWED if said is limit is Decision.ALLOWED else Decision.IMPLICIT_DENY


def allowed(policies: Iterable[Mapping[str, Any]], request: Request) -> bool:
    """Whether the policies allow it."""
    return decide(policies, request) is Decision.ALLOWED


def trusts(policy: Mapping[str, Any], service: str, context: Mapping[str, str | list[str]]) -> bool:
    """Whether a role's trust policy lets an AWS service (`ecs-tasks.amazonaws.com`) assume it."""
    request = Request("sts:AssumeRole", "*", context)
    effects = {
        statement.get("Effect")
        for statement in statements_of(policy)
        if _names(statement.get("Principal"), service)
        and _of_action(statement, request)
        and _conditions_hold(statement, request)
    }
    return effects == {"Allow"}


def keys_of(policies: Iterable[Mapping[str, Any]]) -> set[str]:
    """The condition keys that the policies ask for."""
    return {
        key
        for policy in policies
        for statement in statements_of(policy)
        for keys in (statement.get("Condition") or {}).values()
        for key in keys
    }


def statements_of(policy: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A policy's statements: one may stand by itself."""
    yield from _listed(policy.get("Statement") or [])


def _names(principal: Any, service: str) -> bool:
    if isinstance(principal, dict):
        return any(each in {service, "*"} for each in _listed(principal.get("Service") or []))
    return bool(principal == "*")


def _said(policies: Iterable[Mapping[str, Any]], request: Request) -> Decision:
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in statements_of(policy)
        if _applies(statement, request)
    }
    if "Deny" in effects:
        return Decision.EXPLICIT_DENY
    return Decision.ALLOWED if effects else Decision.IMPLICIT_DENY


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    return _of_action(statement, request) and _of_resource(statement, request) and _conditions_hold(statement, request)


def _of_action(statement: Mapping[str, Any], request: Request) -> bool:
    if "NotAction" in statement:
        return not _one_fits(statement["NotAction"], request.action, ignore_case=True)
    return _one_fits(statement.get("Action") or [], request.action, ignore_case=True)


def _of_resource(statement: Mapping[str, Any], request: Request) -> bool:
    if "NotResource" in statement:
        return not _one_fits(statement["NotResource"], request.resource)
    return _one_fits(statement.get("Resource") or [], request.resource)


def _conditions_hold(statement: Mapping[str, Any], request: Request) -> bool:
    given = {key.lower(): value for key, value in request.context.items()}
    return all(
        _holds(operator, given.get(key.lower()), values)
        for operator, keys in (statement.get("Condition") or {}).items()
        for key, values in keys.items()
    )


def _holds(operator: str, value: str | list[str] | None, wanted: Any) -> bool:
    """A key that the request doesn't have holds only for `…IfExists`, `ForAllValues:` and what says "not"."""
    quantifier, _, name = operator.rpartition(":")
    name, optional = name.removesuffix("IfExists"), name.endswith("IfExists")
    if name == "Null":
        return (value is None) == (str(_listed(wanted)[0]).lower() == "true")
    known = name.replace("Not", "")
    if known not in _OPERATORS:
        raise NotImplementedError(f"the condition operator {operator}")
    if value is None:
        return optional or quantifier == "ForAllValues" or name != known
    fits = [any(_OPERATORS[known](str(pattern), each) for pattern in _listed(wanted)) for each in _listed(value)]
    if name != known:
        fits = [not each for each in fits]
    return all(fits) if quantifier == "ForAllValues" else any(fits)


def _one_fits(patterns: Any, text: str, *, ignore_case: bool = False) -> bool:
    return any(_compiled(pattern, ignore_case=ignore_case).fullmatch(text) for pattern in _listed(patterns))


def _like(pattern: str, text: str) -> bool:
    return _compiled(pattern).fullmatch(text) is not None


def _same(wanted: str, text: str) -> bool:
    return wanted == text


def _alike(wanted: str, text: str) -> bool:
    return wanted.lower() == text.lower()


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": _same,
    "StringEqualsIgnoreCase": _alike,
    "StringLike": _like,
    "ArnLike": _like,
    "ArnEquals": _like,  # it takes wildcards, too
    "Bool": _alike,
}


@cache
def _compiled(pattern: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    expression = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in pattern)
    return re.compile(expression, (re.IGNORECASE if ignore_case else 0) | re.DOTALL)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
