"""`ecs-worker doctor` as it is given: what it prints, what it asks, what it needs, and what it can't look at."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from support.command_line import ecs_worker
from support.paths import TOP
from support.policies import Asked, Request, allowed, arn

if TYPE_CHECKING:
    from pathlib import Path

    from support.clinic import Clinic

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("doctor")]  # one process, as the set-up is its own


async def test_one_line_a_check_and_exit_code_0_when_all_is_well(clinic: Clinic, tmp_path: Path) -> None:
    ended = await clinic.command(tmp_path, "--pool", clinic.pool, "--worker-role", clinic.worker)
    assert (ended.code, ended.err) == (0, ""), ended
    lines = ended.out.splitlines()
    groups = [line for line in lines if not line.startswith(" ")]
    assert groups[:-1] == ["Prefect", "AWS", "Rights", "Network", "Image", "Job"]
    assert groups[-1].endswith(" ok, 0 warning, 0 failed, 0 skipped")
    assert f"  ✓ ok       work pool: {clinic.pool}, of type ecs" in lines
    assert f"  ✓ ok       capacity FARGATE_SPOT on {clinic.pool}: is there [etl/hourly]" in lines
    assert "a-secret" not in ended.out


async def test_what_has_failed_is_marked_in_words_and_makes_the_exit_code_1(clinic: Clinic, tmp_path: Path) -> None:
    async with clinic.with_pool(is_paused=True), clinic.with_queue(concurrency_limit=0):
        ended = await clinic.command(tmp_path, "-d", "etl/nightly", "--worker-role", clinic.worker)
        machines = await clinic.command(tmp_path, "-d", "etl/nightly", "--worker-role", clinic.worker, "--json")
    assert (ended.code, ended.err) == (1, ""), ended
    (paused,) = [line for line in ended.out.splitlines() if " paused: " in line]
    assert paused.startswith("  ✗ failed   paused: the work pool")
    assert paused.endswith(f"→ `prefect work-pool resume {clinic.pool}`.")
    assert ended.out.splitlines()[-1].endswith(" 2 failed, 0 skipped")
    assert machines.code == 1
    document = json.loads(machines.out)
    assert document["counts"]["failed"] == 2
    (found,) = [each for each in document["findings"] if each["check"] == "paused"]
    assert (found["group"], found["result"], found["about"]) == ("Prefect", "failed", [])
    assert found["remedy"] == f"`prefect work-pool resume {clinic.pool}`."
    jobs = {name for each in document["findings"] for name in each["about"]}
    assert jobs == {"etl/nightly"}, "only the deployment that was named"


async def test_without_a_pool_the_server_and_the_account_are_looked_at(clinic: Clinic, tmp_path: Path) -> None:
    ended = await clinic.command(tmp_path)
    assert (ended.code, ended.err) == (0, ""), ended
    skipped = [line for line in ended.out.splitlines() if "- skipped" in line]
    assert len(skipped) >= 10
    assert all(line.endswith("no work pool is named: give --pool") for line in skipped)
    assert "✓ ok       service-linked role" in ended.out


async def test_nothing_answers_is_one_red_line_each_and_the_rest_is_skipped(clinic: Clinic, tmp_path: Path) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    ended = await ecs_worker(
        tmp_path,
        "doctor",
        "-p",
        clinic.pool,
        env={"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1", **nobody},
    )
    assert (ended.code, ended.err) == (1, ""), ended
    failed = [line for line in ended.out.splitlines() if "✗ failed" in line]
    assert [line.split(":")[0].split()[-1] for line in failed] == ["reachable", "identity"]
    assert "PREFECT_API_URL is not set" in failed[0]
    assert "There are no AWS credentials" in failed[1]
    assert "Traceback" not in ended.out


async def test_what_it_can_not_look_at_is_one_sentence(clinic: Clinic, tmp_path: Path) -> None:
    other = await clinic.admin.create_pool()
    for options, sentence in (
        (("-d", "etl/never"), "There is no deployment 'etl/never': write it as flow/deployment."),
        (("-d", "etl/nightly", "-p", other), f"is of the work pool {clinic.pool!r}, not {other!r}: leave --pool out."),
        (("-p", clinic.pool, "--probe"), "--probe launches a task of one deployment: give it with --deployment"),
    ):
        ended = await clinic.command(tmp_path, *options)
        assert (ended.code, ended.out) == (2, ""), (options, ended)
        assert sentence in ended.err
        assert ended.err.count("\n") == 1


async def test_it_asks_nothing_twice_and_its_policy_is_enough_for_all_that_it_asks(
    clinic: Clinic, tmp_path: Path
) -> None:
    clinic.heard.clear()
    await clinic.look()
    assert len(clinic.heard) == len(set(clinic.heard)), "equal questions are asked once"
    listener = Asked()
    for call in clinic.heard:
        listener.hear(*call)
    asked = listener.requests
    assert len({request.action for request in asked}) > 10
    reads = ("Get", "Describe", "BatchGet", "Simulate")
    assert all(request.action.partition(":")[2].startswith(reads) for request in asked), "nothing is changed"
    ended = await ecs_worker(
        tmp_path,
        *("iam", "policy", "doctor", "--pool", clinic.pool),
        api_url=clinic.admin.server.url,
        env={"AWS_REGION": "us-east-1"},
    )
    assert ended.code == 0, ended
    assert "doctor --probe` launches a task, which takes the worker's rights, too" in ended.err
    own = json.loads(ended.out)
    text = (TOP / "iam" / "doctor-policy.json").read_text(encoding="utf-8")
    general = json.loads(text.replace("my-cluster", clinic.pool).replace("my-flows", clinic.repository))
    for policy in (own, general):
        for request in asked:
            assert allowed([policy], request), request
        for request in _strangers(asked):
            assert not allowed([policy], request), request


def _strangers(asked: list[Request]) -> list[Request]:
    """Requests that differ in one thing from its own, and some that it never makes."""

    def like(made: str, **changes: Any) -> Request:
        return replace(next(request for request in asked if request.action == made), **changes)

    return [
        like("ecs:DescribeClusters", resource=arn("ecs", "cluster/production")),
        like("ecs:DescribeClusters", action="ecs:DeleteCluster"),
        like("iam:GetRole", resource="arn:aws:iam::999999999999:role/administrator"),
        like("iam:GetRole", action="iam:PassRole"),
        like("iam:GetRole", action="iam:PutRolePolicy"),
        like("iam:SimulatePrincipalPolicy", resource="arn:aws:iam::999999999999:role/administrator"),
        like("ecr:BatchGetImage", resource=arn("ecr", "repository/payroll")),
        like("ecr:BatchGetImage", action="ecr:PutImage"),
        like("servicequotas:GetServiceQuota", action="servicequotas:RequestServiceQuotaIncrease"),
        like("ec2:DescribeSubnets", action="ec2:CreateSubnet"),
        Request("ecs:RunTask", arn("ecs", "task-definition/prefect:1")),
        Request("ecs:RegisterTaskDefinition", arn("ecs", "task-definition/prefect:*")),
        Request("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:prefect-api-key-a1B2c3")),
    ]
