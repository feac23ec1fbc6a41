"""Whole jobs as people have them: a Prefect 1 agent's configuration, prefect-aws's pools, blocks with secrets."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest

from ecs_worker.job.variables import default_base_job_template
from ecs_worker.local.server import EmbeddedAws
from support.paths import CONTAINER, STORED_TEMPLATES
from support.servers.scripted import Answer, scripted
from support.servers.worker import worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::123456789012:role/r"
SECRET = "hunter2-of-the-block"


def steps(*steps: str) -> str:
    """The command of a container that does these steps (see support/servers/container.py)."""
    return shlex.join([sys.executable, "-I", str(CONTAINER), *steps])


@asynccontextmanager
async def client(service: str, url: str) -> AsyncIterator[Any]:
    session = aioboto3.Session(aws_access_key_id="any", aws_secret_access_key="any", region_name="us-east-1")
    async with session.client(service, endpoint_url=url) as made:
        yield made


async def described(ecs: Any, cluster: str, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's only task, and its definition."""
    arns: list[str] = []
    for status in ("RUNNING", "STOPPED"):
        arns += (await ecs.list_tasks(cluster=cluster, desiredStatus=status))["taskArns"]
    tasks = (await ecs.describe_tasks(cluster=cluster, tasks=arns, include=["TAGS"]))["tasks"]
    (task,) = [task for task in tasks if f"/{run_id}/" in task["startedBy"]]
    answer = await ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])
    return task, answer["taskDefinition"]


def environment_of(task: dict[str, Any], container: str) -> dict[str, str]:
    (found,) = [item for item in task["overrides"]["containerOverrides"] if item["name"] == container]
    return {item["name"]: item["value"] for item in found["environment"]}


async def test_a_prefect_1_agent_s_production_configuration(admin: Admin, tmp_path: Path) -> None:
    """Template on S3 with a side-car, RunTask arguments, adaptive retries; all of it worker-wide."""
    definition = {
        "family": "flows",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "1 vcpu",
        "memory": "2 GB",
        "containerDefinitions": [
            {"name": "side", "image": "datadog/agent:7", "essential": False, "command": ["sleep", "60"]},
            {"name": "flow", "image": "team/flows:3", "environment": [{"name": "FROM", "value": "template"}]},
        ],
    }
    async with EmbeddedAws() as aws, client("s3", aws.url) as s3, client("ecs", aws.url) as ecs:
        async with client("ec2", aws.url) as ec2:
            subnet = (await ec2.describe_subnets())["Subnets"][0]["SubnetId"]
        arguments = f"""
            networkConfiguration:
              awsvpcConfiguration: {{subnets: [{subnet}], assignPublicIp: DISABLED}}
            enableECSManagedTags: true
            overrides: {{executionRoleArn: '{ROLE}', containerOverrides: [{{name: flow, memoryReservation: 64}}]}}
        """
        await s3.create_bucket(Bucket="config")
        await s3.put_object(Bucket="config", Key="ecs/task.yaml", Body=json.dumps(definition).encode())
        await s3.put_object(Bucket="config", Key="ecs/run.yaml", Body=arguments.encode())
        await ecs.create_cluster(clusterName="prod")
        pool = await admin.create_pool(base_job_template=default_base_job_template())
        variables: dict[str, Any] = {"command": steps("RUNNING", "COMPLETED"), "env": {"WHO": "job"}}
        named: dict[str, Any] = {"infra_overrides" if admin.server.line == "2" else "job_variables": variables}
        deployment = await admin.create_deployment(pool, **named)
        run_id = await admin.create_run(deployment)
        options = ["--cluster", "prod", "--task-role-arn", ROLE, "--execution-role-arn", ROLE]
        options += ["--task-definition", "s3://config/ecs/task.yaml", "--run-task-kwargs", "s3://config/ecs/run.yaml"]
        options += ["--env", "WHO=worker", "-e", "STAGE=prod", "--label", "team=data"]
        retries = {"AWS_RETRY_MODE": "adaptive", "AWS_MAX_ATTEMPTS": "5"}
        async with worker(tmp_path, pool, *options, server=admin.server, aws_url=aws.url, env=retries) as process:
            await admin.wait_for_state(run_id, "COMPLETED")
            assert await process.stop() == 0
        task, found = await described(ecs, "prod", run_id)
    assert [item["name"] for item in found["containerDefinitions"]] == ["side", "flow"]
    assert (found["family"], found["cpu"], found["memory"], found["executionRoleArn"]) == (
        "flows",
        "1024",
        "2048",
        ROLE,
    )
    environment = environment_of(task, "flow")
    assert (environment["WHO"], environment["STAGE"]) == ("job", "prod")
    assert environment["PREFECT__FLOW_RUN_ID"] == run_id
    assert task["overrides"]["taskRoleArn"] == ROLE
    assert {"key": "team", "value": "data"} in task["tags"]
    (attachment,) = [item for item in task["attachments"] if item["type"] == "ElasticNetworkInterface"]
    assert {"name": "subnetId", "value": subnet} in attachment["details"]


@pytest.mark.parametrize("version", ["0_4", "0_7"])
async def test_pools_of_prefect_aws_work_as_they_are(admin3: Admin, tmp_path: Path, version: str) -> None:
    template = json.loads((STORED_TEMPLATES / f"prefect_aws_{version}_template.json").read_text("utf-8"))
    template["variables"]["properties"]["env"]["default"] = {"FROM": "pool", "BOTH": "pool"}
    async with EmbeddedAws() as aws, client("ecs", aws.url) as ecs:
        await ecs.create_cluster(clusterName="default")
        pool = await admin3.create_pool(base_job_template=template)
        variables = {"command": steps("RUNNING", "COMPLETED"), "env": {"BOTH": "job"}, "cpu": 512, "memory": 1024}
        deployment = await admin3.create_deployment(pool, job_variables=variables)
        run_id = await admin3.create_run(deployment)
        async with worker(tmp_path, pool, server=admin3.server, aws_url=aws.url):
            await admin3.wait_for_state(run_id, "COMPLETED")
        task, found = await described(ecs, "default", run_id)
    assert (found["family"], found["cpu"], found["memory"]) == (f"prefect_{pool}_{deployment}", "512", "1024")
    assert environment_of(task, "prefect").items() >= {"FROM": "pool", "BOTH": "job"}.items()
    assert (await admin3.get(f"/work_pools/{pool}"))["base_job_template"] == template, "nobody has changed it"


async def test_a_worker_on_ecs_gives_tasks_its_own_network(admin3: Admin, tmp_path: Path) -> None:
    async with EmbeddedAws() as aws, client("ecs", aws.url) as ecs, client("ec2", aws.url) as ec2:
        await ecs.create_cluster(clusterName="default")
        subnet = (await ec2.describe_subnets())["Subnets"][-1]
        group = await ec2.create_security_group(GroupName="worker", Description="its own", VpcId=subnet["VpcId"])
        interface = await ec2.create_network_interface(SubnetId=subnet["SubnetId"], Groups=[group["GroupId"]])
        network = {"NetworkMode": "awsvpc", "MACAddress": interface["NetworkInterface"]["MacAddress"]}
        pool = await admin3.create_pool(base_job_template=default_base_job_template())
        # It runs until it has been looked at: with a stopped task its network interface goes, too.
        variables = {"command": steps("RUNNING", "sleep=600"), "inherit_network": True}
        run_id = await admin3.create_run(await admin3.create_deployment(pool, job_variables=variables))
        async with scripted(Answer(body={"DockerId": "d", "Networks": [network]})) as metadata:
            env = {"ECS_CONTAINER_METADATA_URI_V4": f"http://{metadata.address}/v4/worker"}
            async with worker(tmp_path, pool, server=admin3.server, aws_url=aws.url, env=env):
                await admin3.wait_for_state(run_id, "RUNNING")
        task, _ = await described(ecs, "default", run_id)
        (attachment,) = [item for item in task["attachments"] if item["type"] == "ElasticNetworkInterface"]
        details = {item["name"]: item["value"] for item in attachment["details"]}
        assert details["subnetId"] == subnet["SubnetId"]
        (attached,) = (await ec2.describe_network_interfaces(NetworkInterfaceIds=[details["networkInterfaceId"]]))[
            "NetworkInterfaces"
        ]
        assert [found["GroupId"] for found in attached["Groups"]] == [group["GroupId"]]


async def test_secrets_of_blocks_reach_the_container_and_nothing_else(admin3: Admin, tmp_path: Path) -> None:
    """Also when the job is invalid because of them, and when AWS refuses."""
    await admin3.create_block("secret", "language", {"value": SECRET})
    credentials = {"aws_access_key_id": "AKIDBLOCK", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    block = await admin3.create_block("aws-credentials", "language", credentials)
    placeholder = "{{ prefect.blocks.secret.language }}"
    jobs: dict[str, dict[str, Any]] = {
        "good": {
            "env": {"TOKEN": placeholder},
            "aws_credentials": {"$ref": {"block_document_id": block}},
            "command": steps("RUNNING", "COMPLETED"),
        },
        "no amount": {"cpu": placeholder},
        "no number": {"env": {"A": placeholder}, "ephemeral_storage_gib": placeholder},
        "no such cluster": {"env": {"A": placeholder}, "cluster": "nowhere"},
        "no cluster of that name": {"cluster": placeholder},
        "no such VPC": {"vpc_id": placeholder},
        "no such path": {"env": {"A": "{{ prefect.blocks.aws-credentials.language.absent }}"}},
        "no such block": {"env": {"A": "{{ prefect.blocks.secret.absent }}"}},
    }
    async with EmbeddedAws() as aws, client("ecs", aws.url) as ecs:
        await ecs.create_cluster(clusterName="default")
        pool = await admin3.create_pool(base_job_template=default_base_job_template())
        runs = {}
        for name, variables in jobs.items():
            runs[name] = await admin3.create_run(await admin3.create_deployment(pool, job_variables=variables))
            if name == "good":  # it has been held against our schema; the others the server would refuse by it
                template = default_base_job_template()
                template["variables"]["properties"] = {variable: {} for variable in template["variables"]["properties"]}
                await admin3.call("PATCH", f"/work_pools/{pool}", json={"base_job_template": template})
        async with worker(tmp_path, pool, "--log-level", "DEBUG", server=admin3.server, aws_url=aws.url) as process:
            ends = {name: await admin3.wait_for_state(run, "CRASHED", "COMPLETED") for name, run in runs.items()}
            assert await process.stop() == 0
        task, _ = await described(ecs, "default", runs["good"])
        assert environment_of(task, "prefect")["TOKEN"] == SECRET
    assert {name: end["state_type"] for name, end in ends.items()} == {
        name: "COMPLETED" if name == "good" else "CRASHED" for name in jobs
    }
    assert "create or correct it" in ends["no such block"]["state"]["message"]
    told = process.output
    for run in runs.values():
        told += json.dumps([await admin3.states(run), await admin3.logs(run), await admin3.read_run(run)])
    assert SECRET not in told
    for run in runs.values():
        told_of = {"any_resource": {"id": [f"prefect.flow-run.{run}"]}}
        events = (await admin3.post("/events/filter", {"filter": told_of, "limit": 50}))["events"]
        assert events
        assert SECRET not in json.dumps(events)
