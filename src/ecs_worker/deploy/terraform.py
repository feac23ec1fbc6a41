"""A template as a Terraform module, in the layout of the registry. Pure.

The template stays as it is, and becomes a stack (`aws_cloudformation_stack`): each of its parameters is a variable,
each of its outputs an output. So Terraform, `ecs-worker deploy` and the AWS CLI make the same worker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.deploy.template import document
from ecs_worker.iam.policy import hcl_text

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATE = "template.yaml"
STACK = "stack_name"
"""The variable that names the stack."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_VERSIONS = """\
terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 4.0"
    }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, and how the stack's parameter is made of it. `default` None: it must be given."""

    name: str
    type: str
    meaning: str
    default: str | None  # as HCL
    value: str  # the expression that is the parameter's value
    conditions: tuple[str, ...]
    rule: str  # what the conditions ask for


def files(name: str, template: str) -> dict[str, str]:
    """File → its content. `name`: of the module; `template`: YAML."""
    read = document(template)
    variables = {parameter: _variable(parameter, each) for parameter, each in read["Parameters"].items()}
    outputs: Mapping[str, Any] = read.get("Outputs", {})
    return {
        "main.tf": _main(variables, capabilities="AWS::IAM::" in template),
        "variables.tf": _variables(variables),
        "outputs.tf": _outputs(outputs),
        "versions.tf": _VERSIONS,
        "README.md": _readme(name, read["Description"], variables, outputs),
        TEMPLATE: template,
    }


def snake(name: str) -> str:
    """A name as Terraform has it: `VpcId` → `vpc_id`."""
    return _WORDS.sub("_", name).lower()


def _variable(parameter: str, given: Mapping[str, Any]) -> Variable:
    name = snake(parameter)
    var = f"var.{name}"
    kind, default = given["Type"], given.get("Default")
    allowed = [str(value) for value in given.get("AllowedValues", ())]
    pattern = given.get("AllowedPattern")
    conditions: list[str] = []
    if kind == "CommaDelimitedList":
        type_, value = "list(string)", f'join(",", {var})'
        written = None if default is None else _strings([part for part in default.split(",") if part])
    elif set(allowed) == {"true", "false"}:
        type_, value, written = "bool", f"tostring({var})", default
        allowed = []
    elif kind == "Number":
        type_, value = "number", f"tostring({var})"
        written = None if default is None else str(default)
    else:
        type_, value = "string", var
        written = None if default is None else hcl_text(str(default))
    rules: list[str] = []
    if allowed:
        one_of = f"[{', '.join(allowed)}]" if type_ == "number" else _strings(allowed)
        conditions.append(f"contains({one_of}, {var})")
        rules.append(f"must be one of {', '.join(allowed)}")
    if pattern:
        whole = hcl_text(f"^(?:{pattern})$")
        conditions.append(
            f"alltrue([for item in {var} : can(regex({whole}, item))])"
            if type_ == "list(string)"
            else f"can(regex({whole}, {var}))"
        )
        rules.append(given.get("ConstraintDescription", f"must match {pattern}"))
    if "MinValue" in given:
        conditions.append(f"{var} >= {given['MinValue']}")
        rules.append(f"must be at least {given['MinValue']}")
    return Variable(name, type_, given["Description"], written, value, tuple(conditions), "; ".join(rules))


def _main(variables: Mapping[str, Variable], *, capabilities: bool) -> str:
    width = max(map(len, variables))
    values = "\n".join(f"    {parameter.ljust(width)} = {each.value}" for parameter, each in variables.items())
    allows = '  capabilities  = ["CAPABILITY_IAM"]\n' if capabilities else ""
    return (
        'resource "aws_cloudformation_stack" "this" {\n'
        f"  name          = var.{STACK}\n"
        f'  template_body = file("${{path.module}}/{TEMPLATE}")\n'
        f"{allows}"
        "  tags          = var.tags\n"
        "\n"
        "  parameters = {\n"
        f"{values}\n"
        "  }\n"
        "}\n"
    )


def _variables(variables: Mapping[str, Variable]) -> str:
    stack = Variable(STACK, "string", "Name of the CloudFormation stack", None, "", (), "")
    tags = Variable("tags", "map(string)", "Tags of the stack, which all its resources get", "{}", "", (), "")
    return "\n".join(_block(each) for each in (stack, *variables.values(), tags))


def _block(variable: Variable) -> str:
    lines = [f'variable "{variable.name}" {{', f"  description = {hcl_text(_sentence(variable.meaning))}"]
    lines.append(f"  type        = {variable.type}")
    if variable.default is not None:
        lines.append(f"  default     = {variable.default}")
    lines.append("  nullable    = false")
    if variable.conditions:
        lines += [
            "",
            "  validation {",
            f"    condition     = {' && '.join(variable.conditions)}",
            f"    error_message = {hcl_text(f'The variable {variable.name} {variable.rule}.')}",
            "  }",
        ]
    return "\n".join([*lines, "}\n"])


def _outputs(outputs: Mapping[str, Any]) -> str:
    blocks = []
    for output, given in outputs.items():
        value = f"aws_cloudformation_stack.this.outputs[{hcl_text(output)}]"
        if "Condition" in given:
            value = f"try({value}, null)"
        blocks.append(
            f'output "{snake(output)}" {{\n'
            f"  description = {hcl_text(_sentence(_output_meaning(given)))}\n"
            f"  value       = {value}\n"
            "}\n"
        )
    return "\n".join(blocks)


def _output_meaning(given: Mapping[str, Any]) -> str:
    more = "; null if there is none" if "Condition" in given else ""
    return f"{given['Description']}{more}"


def _readme(name: str, meaning: str, variables: Mapping[str, Variable], outputs: Mapping[str, Any]) -> str:
    needed = [each for each in variables.values() if each.default is None]  # all of them texts
    width = max(map(len, [STACK, "source", *(each.name for each in needed)]))
    usage = [f'  {"source".ljust(width)} = "./{name}"', f'  {STACK.ljust(width)} = "{name}"']
    usage += [f'  {each.name.ljust(width)} = "…"' for each in needed]
    rows = [f"| `{STACK}` | string | | Name of the CloudFormation stack. |"]
    rows += [
        f"| `{each.name}` | {each.type} | {'' if each.default is None else f'`{each.default}`'} "
        f"| {_cell(_sentence(each.meaning))} |"
        for each in variables.values()
    ]
    rows.append("| `tags` | map(string) | `{}` | Tags of the stack, which all its resources get. |")
    told = [f"| `{snake(output)}` | {_cell(_sentence(_output_meaning(given)))} |" for output, given in outputs.items()]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{_sentence(meaning)} It is the CloudFormation template `{TEMPLATE}`, as a stack.",
            "Written by `ecs-worker deploy template --format terraform`.",
            "",
            "```hcl",
            f'module "{snake(name.replace("-", "_"))}" {{',
            *usage,
            "}",
            "```",
            "",
            "## Inputs",
            "",
            "| Name | Type | Default | Meaning |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Outputs",
            "",
            "| Name | Meaning |",
            "|---|---|",
            *told,
            "",
        ]
    )


def _strings(values: list[str]) -> str:
    return f"[{', '.join(map(hcl_text, values))}]"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
