"""Writes job-variables.md from `JobVariables`: `make docs`. A test holds the two together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecs_worker.job.variables import JobVariables

PAGE = Path(__file__).with_name("job-variables.md")
HEAD = """# Job variables

What a work pool (as defaults in its base job template), a deployment (`job_variables`, in Prefect 2
`infra_overrides`) and a flow run may set. The run's win over the deployment's, these over the pool's; only `env` is
merged. Values may hold `{{ prefect.blocks.TYPE.NAME }}` and `{{ prefect.variables.NAME }}`. `{{ $VARIABLE }}` of the
worker's environment is for the pool's default for `env`. (In the template's own text, the `job_configuration`,
Prefect's servers refuse it.) The `env` of a deployment or a run reads only what the worker's `--job-env-from-worker`
names; elsewhere, and without that option, `{{ $VARIABLE }}` stays as it is written. `ecs-worker render` shows what
becomes of them all.

An `aws-credentials` block whose `aws_client_parameters` name an endpoint or proxies, or switch `verify` or `use_ssl`
off, needs credentials of its own: an access key or a role. The worker's own only go where its operator sends them.

For ECS Managed Instances see [examples/managed-instances.yaml](../examples/managed-instances.yaml).

A pool takes the variables that its base job template names. `ecs-worker pool update NAME` adds those that it lacks.
What its users have made stays: variables of their own, also those that bear one of the names below; defaults; and what
they have taken out, which only `--restore` brings back. A variable that the pool doesn't know has no effect; the run's
logs say so, with the name that was meant. Written by `make docs`.

"""
# Where a new group begins, so that the page can be read.
GROUPS = {
    "name": "prefect-aws's",
    "secrets": "Beyond prefect-aws's",
    "task_definition": "Whole requests, and changes to them",
}


def page() -> str:
    """The whole page: each variable with its kind of value, its default and its meaning."""
    schema = JobVariables.model_json_schema()
    lines = [HEAD.rstrip("\n")]
    for name, described in schema["properties"].items():
        if name in GROUPS:
            lines += ["", f"## {GROUPS[name]}", "", "| Variable | Value | Meaning |", "|---|---|---|"]
        meaning = described.get("description", "").replace("|", "\\|")
        default = described.get("default")
        stated = f" Default: `{str(default).lower() if isinstance(default, bool) else default}`." if default else ""
        lines.append(f"| `{name}` | {_kind(described)} | {meaning}{stated} |")
    return "\n".join(lines) + "\n"


def _kind(schema: dict[str, Any]) -> str:
    """The kind of value in words; null, which every variable that has no default takes, is not named."""
    if "anyOf" in schema:
        return " or ".join(_kind(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_kind(schema['items'])}s"
    values = schema.get("additionalProperties")
    if kind == "object" and isinstance(values, dict) and values:
        return f"mapping of names to {_kind(values)}s"
    if schema.get("$ref", "").endswith("AwsCredentials"):
        return "block `aws-credentials`"
    return _KINDS.get(kind, "mapping") + _range(schema)


_KINDS = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number"}


def _range(schema: dict[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    return f" from {least} on" if least else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
