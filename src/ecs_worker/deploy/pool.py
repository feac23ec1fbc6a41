"""The work pool's defaults that a deployed worker's stack fills: only those that are empty, or its own from before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecs_worker.job.template import variables_of
from ecs_worker.job.variables import default_base_job_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Output of the stack → job variable.
_SINGLE = {
    "ClusterArn": "cluster",
    "ExecutionRoleArn": "execution_role_arn",
    "RunTaskRoleArn": "task_role_arn",
    "PrefectApiKeySecretArn": "prefect_api_key_secret_arn",
    "PrefectAuthStringSecretArn": "prefect_api_auth_string_secret_arn",
}
# They say together where tasks run: who has set one has decided for all.
_NETWORK = ("subnets", "assign_public_ip", "network_configuration", "vpc_id", "inherit_network")
_EMPTY: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the stack gives to the pool: values of its outputs, and its network."""

    outputs: Mapping[str, str]
    public_ip: bool

    @property
    def subnets(self) -> list[str]:
        """The worker's subnets."""
        return [each for each in self.outputs.get("SubnetIds", "").split(",") if each]


@dataclass(frozen=True, slots=True)
class Filling:
    """A default to set. `value` None: to take away."""

    variable: str
    value: Any


def default(template: Mapping[str, Any], variable: str) -> Any:
    """The pool's default of a job variable; None where it has none."""
    found = _properties(template).get(variable)
    return found.get("default") if isinstance(found, dict) else None


def fillings(template: Mapping[str, Any], facts: Facts, before: Facts | None) -> list[Filling]:
    """The defaults to set. `before`: what the stack gave until now; where the pool has that, it follows the stack."""
    template = template or default_base_job_template()
    placed = _placed(template)
    earlier = _values(before, placed) if before else {}
    found: list[Filling] = []
    wanted = _values(facts, placed)
    network_is_free = all(_free(template, name, earlier) for name in _NETWORK)
    for name, value in wanted.items():
        free = network_is_free if name in _NETWORK else _free(template, name, earlier)
        if free and default(template, name) != value:
            found.append(Filling(name, value))
    gone = [name for name in earlier if name not in wanted and default(template, name) == earlier[name]]
    return found + [Filling(name, None) for name in gone if name not in _NETWORK or network_is_free]


def emptyings(template: Mapping[str, Any], facts: Facts, others: Iterable[Facts] = ()) -> list[Filling]:
    """The defaults to take away with the stack: those that it gave, and none of the pool's other stacks gives."""
    placed = _placed(template)
    kept = [_values(other, placed) for other in others]
    return [
        Filling(name, None)
        for name, value in _values(facts, placed).items()
        if default(template, name) == value and not any(other.get(name) == value for other in kept)
    ]


def filled(template: Mapping[str, Any], changes: Iterable[Filling]) -> dict[str, Any]:
    """The base job template with these defaults."""
    new: dict[str, Any] = copy.deepcopy(dict(template)) or default_base_job_template()
    for change in changes:
        described = new["variables"]["properties"][change.variable]
        if change.value is not None:
            described["default"] = change.value
            continue
        ours = default(default_base_job_template(), change.variable)
        if ours is None and described.get("type"):  # null would not be of that type
            described.pop("default", None)
        else:
            described["default"] = ours
    return new


def _values(facts: Facts, placed: frozenset[str]) -> dict[str, Any]:
    """Job variable → value, of the variables that the pool's template really puts into jobs."""
    found: dict[str, Any] = {
        variable: facts.outputs[output] for output, variable in _SINGLE.items() if facts.outputs.get(output)
    }
    subnets = facts.subnets
    if not subnets:
        pass
    elif "subnets" in placed:
        found["subnets"] = subnets
        if facts.public_ip:
            found["assign_public_ip"] = True
    else:  # prefect-aws's: its worker takes subnets only within the VPC that is named
        assign = "ENABLED" if facts.public_ip else "DISABLED"
        found["network_configuration"] = {"subnets": subnets, "assignPublicIp": assign}
        found["vpc_id"] = facts.outputs["VpcId"]
    return {name: value for name, value in found.items() if name in placed}


def _free(template: Mapping[str, Any], variable: str, earlier: Mapping[str, Any]) -> bool:
    now = default(template, variable)
    return now in _EMPTY or (variable in earlier and now == earlier[variable])


def _placed(template: Mapping[str, Any]) -> frozenset[str]:
    return variables_of(template.get("job_configuration") or {}) & _properties(template).keys()


def _properties(template: Mapping[str, Any]) -> Mapping[str, Any]:
    variables = template.get("variables") or {}
    properties: Mapping[str, Any] = (variables.get("properties") if isinstance(variables, dict) else None) or {}
    return properties
