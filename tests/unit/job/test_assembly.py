"""What is left out of a job, so that the rest of it can be judged."""

from __future__ import annotations

from support.jobs import problems


def test_half_a_pair_of_sizes_is_not_judged() -> None:
    fixed = {"task_definition": {"cpu": "3 apples"}}
    [problem] = problems({"memory": 300}, **fixed)
    assert problem.startswith("cpu is '3 apples'")
    assert problem.endswith('which is no amount; write CPU units, like 1024, or vCPUs, like "1 vcpu".')
