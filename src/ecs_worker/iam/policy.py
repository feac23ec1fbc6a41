"""IAM's policies as values, and how they are written: JSON for IAM, HCL for Terraform."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = "2012-10-17"  # of the policy language
LONGEST_MANAGED = 6144
"""Characters of a managed policy, white space not counted (IAM user guide, "IAM and AWS STS quotas")."""
LONGEST_INLINE = 10_240
"""The same of all inline policies of a role together."""
_TEMPLATE = re.compile(r"([$%])(?=\{)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement that allows `actions` on `resources`. No resources: the whole statement is left out.

    `conditions`: operator → key → the values of which one must hold. Resources may hold CloudFormation's `${AWS::…}`.
    """

    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a policy."""
        document: dict[str, Any] = {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": _one_or_all(self.actions),
            "Resource": _one_or_all(self.resources),
        }
        if self.conditions:
            document["Condition"] = {
                operator: {key: _one_or_all(values) for key, values in keys.items()}
                for operator, keys in self.conditions.items()
            }
        return document


def allow(
    sid: str,
    actions: str | Sequence[str],
    resources: str | Iterable[str],
    conditions: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
) -> Statement:
    """A statement; one action or resource may stand by itself. Resources are sorted, each once."""
    return Statement(
        sid,
        (actions,) if isinstance(actions, str) else tuple(actions),
        (resources,) if isinstance(resources, str) else tuple(sorted(set(resources))),
        conditions or {},
    )


def document(statements: Iterable[Statement]) -> dict[str, Any]:
    """The policy of these statements."""
    return {"Version": VERSION, "Statement": [statement.to_json() for statement in statements]}


def as_terraform(name: str, statements: Iterable[Statement]) -> str:
    """The policy as Terraform's data source `aws_iam_policy_document`, laid out as by `terraform fmt`."""
    blocks = "\n\n".join(_block(statement) for statement in statements)
    return f'data "aws_iam_policy_document" "{name}" {{\n{blocks}\n}}'


def _block(statement: Statement) -> str:
    lines = [
        "  statement {",
        f"    sid = {hcl_text(statement.sid)}",
        f"    actions = {_list(statement.actions, 4)}",
        f"    resources = {_list(statement.resources, 4)}",
    ]
    for operator, keys in statement.conditions.items():
        for key, values in keys.items():
            lines += [
                "",
                "    condition {",
                f"      test     = {hcl_text(operator)}",
                f"      variable = {hcl_text(key)}",
                f"      values = {_list(values, 6)}",
                "    }",
            ]
    return "\n".join([*lines, "  }"])


def _list(values: Sequence[str], indent: int) -> str:
    items = "".join(f"{' ' * (indent + 2)}{hcl_text(value)},\n" for value in values)
    return f"[\n{items}{' ' * indent}]"


def hcl_text(value: str) -> str:
    """A string of HCL, in which `${` and `%{` would begin a template."""
    return _TEMPLATE.sub(r"\1\1", json.dumps(value, ensure_ascii=False))


def _one_or_all(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)
