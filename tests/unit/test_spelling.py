from __future__ import annotations

from ecs_worker.settings import WorkerSettings, variable
from ecs_worker.spelling import nearest, unknown_settings


def test_unknown_variables_are_told_with_the_one_that_was_meant() -> None:
    known = [variable(WorkerSettings, name) for name in WorkerSettings.model_fields]
    said = ["ECS_WORKER_LIMITS", "ECS_WORKER_ZEBRA", "PATH", "ecs_worker_pool", "ECS_WORKERS", *known]
    assert unknown_settings(said) == [
        f"The environment variable {said[0]} has no effect: there is no such setting. Did you mean ECS_WORKER_LIMIT?",
        "The environment variable ECS_WORKER_ZEBRA has no effect: there is no such setting; remove it.",
    ]


def test_what_kubernetes_tells_of_a_service_of_that_name_is_no_setting() -> None:
    assert unknown_settings(["ECS_WORKER_SERVICE_HOST", "ECS_WORKER_PORT", "ECS_WORKER_PORT_8080_TCP_ADDR"]) == []


def test_nearest() -> None:
    assert nearest("memroy", {"memory", "cpu"}) == "memory"
    assert nearest("Task Role-ARN", {"task_role_arn"}) == "task_role_arn"
    assert nearest("zebra", {"memory", "cpu"}) == ""
    assert nearest("x", set()) == ""
