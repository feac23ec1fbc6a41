"""docs/deploying.md: the way by hand works as it stands there, and what the page names exists."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import hcl2
import pytest

from ecs_worker.cli.app import command
from ecs_worker.deploy import terraform
from ecs_worker.deploy.template import document
from ecs_worker.local.server import EmbeddedAws
from support import stacks
from support.embedded import connected
from support.paths import TOP
from support.servers.worker import environment
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.embedded import Aws
    from support.servers.prefect import Admin

PAGE = (TOP / "docs" / "deploying.md").read_text(encoding="utf-8")
POOL, CLUSTER = "my-ecs-pool", "my-cluster"
KEY = "pnu_of-the-page"


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(text: str) -> str:
    """What stands indented: the commands."""
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ")) + "\n"


def script_of(name: str, text: str, directory: Path) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def checkout(directory: Path) -> Path:
    for folder in ("iam", "examples"):
        shutil.copytree(TOP / folder, directory / folder)
    return directory


@pytest.mark.anyio
async def test_the_way_by_hand_ends_with_a_worker_that_serves_the_pool(admin3: Admin, tmp_path: Path) -> None:
    """In an account with nothing in it. The container engine only says what it was asked."""
    place, tools = checkout(tmp_path / "checkout"), tmp_path / "tools"
    tools.mkdir()
    script_of("aws", f'exec {sys.executable} -m awscli "$@"', tools)
    script_of("docker", f'echo "$@" >> {tmp_path}/docker; test "$1" != login || cat >> {tmp_path}/password', tools)
    async with EmbeddedAws() as aws, connected(aws.url) as clients:
        env = environment(tmp_path, api_url=admin3.server.url, aws_url=aws.url, extra={"PREFECT_API_KEY": KEY})
        env |= {"AWS_REGION": "us-east-1", "PATH": f"{tools}:{env['PATH']}", "AWS_PAGER": ""}
        ended = await anyio.run_process(
            ["/bin/sh", "-eux", "-c", commands(section("By hand"))], cwd=place, env=env, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode()

        async def online() -> list[Any]:
            made = await admin3.post("/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
            if not made:  # the worker makes it
                return []
            found = await admin3.post(f"/work_pools/{POOL}/workers/filter", {})
            return [worker for worker in found if worker["status"] == "ONLINE"]

        assert len(await until(online, 60)) == 1
        await _assert_made_as_told(clients, tmp_path)
        for service in (await clients.ecs.list_services(cluster=CLUSTER))["serviceArns"]:
            await clients.ecs.delete_service(cluster=CLUSTER, service=service, force=True)
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    assert (tmp_path / "docker").read_text().splitlines() == [
        f"login --username AWS --password-stdin {registry}",
        f"build --platform linux/amd64 --tag {registry}/ecs-worker:0.1.0 .",
        f"push {registry}/ecs-worker:0.1.0",
    ]
    assert (tmp_path / "password").read_text().strip()
    await admin3.call("DELETE", f"/work_pools/{POOL}")


async def _assert_made_as_told(clients: Aws, home: Path) -> None:
    (service,) = (await clients.ecs.describe_services(cluster=CLUSTER, services=["ecs-worker"]))["services"]
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    definition = await clients.ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
    (container,) = definition["taskDefinition"]["containerDefinitions"]
    (secret,) = container["secrets"]
    found = await clients.secretsmanager.get_secret_value(SecretId=secret["valueFrom"])
    assert (found["ARN"], found["SecretString"]) == (secret["valueFrom"], KEY), "its whole ARN, as ECS wants it"
    assert f"prefect_api_key_secret_arn: {found['ARN']}\n" in (home / "checkout/examples/prefect.yaml").read_text()
    (group,) = (await clients.logs.describe_log_groups(logGroupNamePrefix="ecs-worker"))["logGroups"]
    assert group["retentionInDays"] == 30
    for role, policies in {
        "ecs-worker": ["worker"],
        "ecs-worker-execution": ["execution", "secret"],
        "my-task-execution-role": ["execution", "secret"],
        "my-task-role": [],
    }.items():
        assert sorted((await clients.iam.list_role_policies(RoleName=role))["PolicyNames"]) == policies


def test_a_command_that_fails_would_be_noticed(tmp_path: Path) -> None:
    script_of("aws", 'test "$1" != logs', tmp_path)
    script_of("docker", "cat > /dev/null", tmp_path)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "AWS_REGION": "x", "PREFECT_API_URL": "x", "PREFECT_API_KEY": "x"}
    place = checkout(tmp_path / "checkout")
    ended = subprocess.run(
        ["/bin/sh", "-eu", "-c", commands(section("By hand"))],
        cwd=place,
        env=env,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert ended.returncode == 1


def test_the_page_names_commands_options_and_files_that_exist() -> None:
    known = command("deploy")
    lines = [line for line in commands(PAGE).splitlines() if line.startswith("ecs-worker deploy")]
    written = [re.split(r" +[#>]", each)[0] for each in (*lines, *re.findall(r"`(ecs-worker deploy[^`]*)`", PAGE))]
    assert len(written) > 10
    for each in written:
        words = each.split()[2:]
        named = words[0] if words and not words[0].startswith("-") else ""
        assert not named or named in known.commands, each
        asked = known.commands.get(named, known)
        options = {option for parameter in asked.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, each
    options = {option for parameter in known.params for option in parameter.opts}
    table = [line for line in section("Networks").splitlines() if line.startswith("|")]
    assert {found for line in table for found in re.findall(r"`(--[\w-]+)", line)} <= options
    for path in re.findall(r"(?:iam|examples|docs)/[\w.-]+\w", PAGE):
        assert (TOP / path).exists(), path
    for anchor in re.findall(r"\]\(#([\w-]+)\)", PAGE):
        titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_module_is_used_as_it_can_be() -> None:
    block = commands(section("Terraform")).partition('\nmodule "')[2].partition("\n}\n")[0]
    (module,) = hcl2.load(io.StringIO(f'module "{block}\n}}\n'))["module"]
    (given,) = module.values()
    variables = {terraform.snake(name) for name in document(stacks.TEMPLATE)["Parameters"]}
    assert {name for name in given if not name.startswith("__")} <= variables | {"source", "stack_name"}
    outputs = {terraform.snake(name) for name in document(stacks.TEMPLATE)["Outputs"]}
    assert set(re.findall(r"`(\w+_(?:arn|ids))`", section("Terraform"))) <= outputs
