"""The job of one run: the two requests for ECS, and all that they were made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ecs_worker.job.configuration import origin_of
from ecs_worker.job.masking import Redactor
from ecs_worker.job.requests import CAPACITY, for_windows, runs_on_fargate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecs_worker.job.configuration import JobConfiguration
    from ecs_worker.job.context import FlowRunContext


@dataclass(frozen=True, slots=True)
class Job:
    """One run's job. `definition` is our RegisterTaskDefinition request, or the description of a reused definition.

    `run_task` is the RunTask request without taskDefinition, clientToken and startedBy. `described` False: nobody has
    asked ECS for the reused definition, and `definition` is only presumed. `hidden` is what no message may tell: the
    values of blocks and variables.
    """

    configuration: JobConfiguration
    context: FlowRunContext
    definition: Mapping[str, Any]
    run_task: Mapping[str, Any]
    came_from: Mapping[str, str] = field(default_factory=dict)
    described: bool = True
    hidden: Redactor = field(default_factory=Redactor)

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The definition's containers."""
        return list(self.definition.get("containerDefinitions") or [])

    @property
    def overrides(self) -> Mapping[str, Any]:
        """What RunTask changes of the definition."""
        return self.run_task.get("overrides") or {}

    @property
    def container_overrides(self) -> list[Mapping[str, Any]]:
        """What RunTask changes of the definition's containers."""
        return list(self.overrides.get("containerOverrides") or [])

    @property
    def execution_role(self) -> object:
        """The role with which ECS starts the task; RunTask may name another than the definition."""
        return self.overrides.get("executionRoleArn") or self.definition.get("executionRoleArn")

    @property
    def role_remedy(self) -> str:
        """How to give the task an execution role."""
        reused = self.configuration.reused_definition
        if reused is None or self.configuration.derive_task_definition:
            return "set execution_role_arn"
        return (
            f"execution_role_arn has no effect, as {reused} is used as it is: register a revision of it that has an "
            "executionRoleArn, or set derive_task_definition and execution_role_arn"
        )

    @property
    def network(self) -> Mapping[str, Any]:
        """RunTask's awsvpcConfiguration."""
        return (self.run_task.get("networkConfiguration") or {}).get("awsvpcConfiguration") or {}

    @property
    def on_fargate(self) -> bool:
        """Whether the task is for Fargate."""
        return runs_on_fargate(self.run_task)

    @property
    def made_for_fargate(self) -> bool:
        """Whether the definition must do for Fargate, wherever the task runs."""
        return self.on_fargate or "FARGATE" in (self.definition.get("requiresCompatibilities") or [])

    @property
    def off_fargate(self) -> bool:
        """Whether the task can't be on Fargate. Where the cluster's default strategy decides, it may."""
        if self.run_task.keys() & CAPACITY:
            return not self.on_fargate
        fits = self.definition.get("compatibilities") or self.definition.get("requiresCompatibilities") or ["FARGATE"]
        return "FARGATE" not in fits

    @property
    def on_windows(self) -> bool:
        """Whether the task's containers are Windows's."""
        return for_windows(self.definition)

    def origin(self, variable: str) -> str:
        """Where the job variable came from, as a bracket for messages."""
        return origin_of(variable, self.came_from)

    def source(self, *variables: str) -> str:
        """The origin of the first of the variables that somebody has set, else the template."""
        return next(filter(None, map(self.origin, variables)), " (from the work pool's template)")
