from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ecs_worker.demo.outcome import (
    PLAN,
    Outcome,
    RunView,
    by_run,
    count_calls,
    differences,
    streamed,
)
from ecs_worker.model import TaskFacts
from ecs_worker.prefect_api.schemas import StateType

BEGAN = datetime(2025, 1, 1, 12, tzinfo=UTC)
TASK = TaskFacts("arn:aws:ecs:us-east-1:123456789012:task/default/0123", last_status="STOPPED", created_at=BEGAN)


def as_planned() -> tuple[RunView, ...]:
    return tuple(
        RunView(
            planned,
            planned.ends,
            planned.ends.capitalize(),
            message="It was killed (exit code 137)." if planned.ends is StateType.CRASHED else "",
            tasks=(TASK,),
            lines=(f"12:00:00 {planned.line} it came",),
        )
        for planned in PLAN
    )


def test_the_plan_has_runs_that_complete_and_one_that_crashes() -> None:
    ends = [planned.ends for planned in PLAN]
    assert ends.count(StateType.CRASHED) == 1
    assert ends.count(StateType.COMPLETED) == len(PLAN) - 1 >= 3
    assert len({planned.name for planned in PLAN}) == len(PLAN)


def test_nothing_differs_when_all_came_as_planned() -> None:
    assert differences(Outcome(as_planned())) == []
    assert differences(Outcome(as_planned(), worker_exit=0)) == []


@pytest.mark.parametrize(
    ("which", "change", "sentence"),
    [
        (
            0,
            {"state_type": StateType.FAILED, "state_name": "Failed", "message": "no such file"},
            "as-deployed is Failed, not Completed: no such file.",
        ),
        (0, {"state_type": StateType.PENDING, "state_name": "Pending"}, "as-deployed is Pending, not Completed."),
        (
            -1,
            {"state_type": StateType.COMPLETED, "state_name": "Completed", "message": ""},
            "crashing is Completed, not Crashed.",
        ),
        (
            -1,
            {"message": "exit code 1"},
            "crashing is Crashed, but its message does not name exit code 137: exit code 1.",
        ),
        (-1, {"message": ""}, "crashing is Crashed, but its message does not name exit code 137: it is empty."),
        (1, {"tasks": ()}, "larger has 0 ECS tasks, not one."),
        (1, {"tasks": (TASK, TASK)}, "larger has 2 ECS tasks, not one."),
        (1, {"tasks": (replace(TASK, last_status="RUNNING"),)}, "The ECS task of larger is RUNNING, not STOPPED."),
        (
            0,
            {"lines": ("something else",)},
            "The worker did not stream 'Good day from the container', which the container of as-deployed wrote.",
        ),
    ],
)
def test_each_difference_is_named_alone(which: int, change: dict[str, object], sentence: str) -> None:
    runs = list(as_planned())
    runs[which] = replace(runs[which], **change)  # type: ignore[arg-type] # the fields differ in type
    assert differences(Outcome(tuple(runs))) == [sentence]


def test_a_worker_that_fails_is_a_difference() -> None:
    assert differences(Outcome(as_planned(), worker_exit=-9)) == ["The worker ended with exit code -9, not 0."]


def test_a_run_has_ended_when_it_is_final_and_its_tasks_have_stopped() -> None:
    run = as_planned()[0]
    assert run.ended
    assert not replace(run, state_type=StateType.RUNNING).ended
    assert not replace(run, tasks=(TASK, replace(TASK, last_status="STOPPING"))).ended


def test_time_counts_from_the_first_task_to_the_last_end_or_till_now() -> None:
    run, now = as_planned()[0], BEGAN + timedelta(seconds=9)
    assert replace(run, tasks=()).seconds(now) is None
    assert run.seconds(now) == 9
    ended = replace(TASK, stopped_at=BEGAN + timedelta(seconds=4))
    assert replace(run, tasks=(ended,)).seconds(now) == 4
    assert replace(run, tasks=(ended, TASK)).seconds(now) == 9


def test_tasks_belong_to_the_run_that_started_by_names() -> None:
    one, two = (replace(TASK, started_by=f"prefect/{run}/{claim}") for run, claim in (("a", "1"), ("b", "2")))
    again, foreign = replace(TASK, started_by="prefect/a/3"), replace(TASK, started_by="ecs-svc/1")
    assert by_run([one, two, foreign, again, TASK]) == {"a": (one, again), "b": (two,)}


def test_streamed_lines_are_told_from_the_workers_own() -> None:
    output = (
        "12:00:00 INFO    larger: ECS task 0123 is RUNNING.\n"
        "12:00:01 INFO    larger | one | two\n"
        "12:00:01 INFO    stranger | three\n"
        "12:00:02 WARNING The API answered 503 | it is tried again\n"
        "12:00:02 INFO    larger | \n"
    )
    assert streamed(output, ["larger", "greeting"]) == {"larger": ("one | two", ""), "greeting": ()}


def test_calls_are_counted_by_action_without_the_spectators() -> None:
    entries = [
        {"action": "ecs:ListTasks", "user_agent": "aiobotocore spectator"},
        {"action": "ecs:RunTask", "user_agent": "aiobotocore ecs-worker/1"},
        {"action": "ecs:DescribeTasks", "user_agent": "aiobotocore spectator"},
        {"action": "ecs:DescribeTasks", "user_agent": "aiobotocore ecs-worker/1"},
        {"action": "ecs:DescribeTasks", "user_agent": "aiobotocore ecs-worker/1"},
    ]
    counted = count_calls(entries, without="spectator")
    assert list(counted.items()) == [("ecs:DescribeTasks", 2), ("ecs:RunTask", 1)]
