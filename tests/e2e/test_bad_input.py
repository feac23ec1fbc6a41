"""What users get wrong: one sentence that says so and what to do, never a traceback."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.job.variables import default_base_job_template
from support.servers.worker import command, environment
from support.world import World, steps

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
UNUSED = "http://127.0.0.1:9/api"  # these end before they ask a server
NO_BLOCK = "00000000-0000-4000-8000-000000000000"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "an-example"}


async def refused(directory: Path, options: list[str], env: dict[str, str], *, whole: bool = False) -> str:
    """What `ecs-worker start` says, refusing to begin."""
    arguments = ["start", "--pool", "any", *options]
    given = environment(directory, extra=env)
    async with command(directory, arguments, given, log=directory / "log", whole=whole) as process:
        assert await process.wait() == 2, process.output
    assert "Traceback" not in process.output
    return process.output


@pytest.mark.parametrize(
    ("options", "env", "words"),
    [
        pytest.param(["--type", "docker"], {}, ["--type", "'docker'", "leave the option out"], id="type"),
        pytest.param(["--limit", "0"], {}, ["--limit", "greater than or equal to 1"], id="limit"),
        pytest.param(["--query-seconds", "-1"], {}, ["--query-seconds", "greater than 0"], id="interval"),
        pytest.param(["--log-level", "loud"], {}, ["--log-level", "'DEBUG'"], id="log level"),
        pytest.param(["--log-format", "yaml"], {}, ["--log-format", "'json'"], id="log format"),
        pytest.param(["--name", "a/b"], {}, ["--name", "'a/b'"], id="name"),
        pytest.param(["--health-address", "80"], {}, ["--health-address", "HOST:PORT"], id="health address"),
        pytest.param(["--pool", ""], {}, ["--pool"], id="empty pool"),
        pytest.param([], {"ECS_WORKER_LIMIT": "many"}, ["ECS_WORKER_LIMIT", "'many'"], id="variable"),
        pytest.param([], {"ECS_WORKER_RUN_ONCE": "perhaps"}, ["ECS_WORKER_RUN_ONCE", "'perhaps'"], id="flag"),
        pytest.param([], {"PREFECT_API_URL": ""}, ["PREFECT_API_URL is not set"], id="no API URL"),
        pytest.param([], {"PREFECT_API_URL": "localhost:4200"}, ["PREFECT_API_URL", "http://"], id="API URL"),
        pytest.param(
            [], {"PREFECT_API_SSL_CERT_FILE": "/absent"}, ["PREFECT_API_SSL_CERT_FILE", "no such file"], id="CA file"
        ),
        pytest.param(
            [], {"PREFECT_CLIENT_CUSTOM_HEADERS": "X: y"}, ["PREFECT_CLIENT_CUSTOM_HEADERS", "JSON"], id="headers"
        ),
        pytest.param([], {"AWS_REGION": ""}, ["AWS_REGION"], id="no Region"),
        pytest.param([], dict.fromkeys(KEYS, ""), ["AWS", "credentials"], id="no credentials"),
        pytest.param([], {"AWS_SECRET_ACCESS_KEY": ""}, ["credentials", "secret"], id="half of the credentials"),
        pytest.param([], {"AWS_ENDPOINT_URL": "nonsense"}, ["AWS_ENDPOINT_URL", "http://"], id="AWS endpoint"),
        pytest.param([], {"AWS_PROFILE": "absent"}, ["(absent)", "AWS_PROFILE"], id="AWS profile"),
    ],
)
async def test_settings(tmp_path: Path, options: list[str], env: dict[str, str], words: list[str]) -> None:
    given = {"PREFECT_API_URL": UNUSED, "AWS_REGION": "us-east-1", **KEYS, **env}
    (sentence,) = (
        await refused(tmp_path, options, {name: value for name, value in given.items() if value})
    ).splitlines()
    assert sentence.startswith("ecs-worker: ")
    for word in words:
        assert word.lower() in sentence.lower()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", "many"], ["--limit"]),
        (["--nonsense"], ["--nonsense"]),
        (["--health-address"], ["--health-address"]),
    ],
    ids=["no number", "unknown option", "no value"],
)
async def test_options_that_cannot_be_read(tmp_path: Path, options: list[str], words: list[str]) -> None:
    """The command line's own refusal ends with the sentence, if need be under a hint."""
    told = await refused(tmp_path, options, {"PREFECT_API_URL": UNUSED, "AWS_REGION": "us-east-1", **KEYS})
    *_, sentence = told.splitlines()
    for word in words:
        assert word in sentence


async def test_profiles_file(tmp_path: Path) -> None:
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text('active = "unfinished\n')
    (sentence,) = (await refused(tmp_path, [], {"AWS_REGION": "us-east-1", **KEYS}, whole=True)).splitlines()
    assert str(profiles) in sentence
    assert "PREFECT_PROFILES_PATH" in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{not JSON", "is not JSON"),
        ('{"variables": {}}', "lacks 'job_configuration'"),
        ("[]", "lacks 'job_configuration' and 'variables'"),
    ],
    ids=["missing", "no JSON", "without a key", "no object"],
)
async def test_base_job_template_file(world: World, content: str | None, words: str) -> None:
    file = world.directory / "template.json"
    if content is not None:
        file.write_text(content)
    async with world.worker("--base-job-template", str(file)) as process:
        assert await process.wait() == 2
    (sentence,) = process.output.splitlines()
    assert sentence.startswith(f"ecs-worker: --base-job-template {file} ")
    assert words in sentence


async def test_unknown_pool(world: World) -> None:
    world.pool = "absent"
    async with world.worker("--no-create-pool-if-not-found", whole=True) as process:
        assert await process.wait() == 2
    (sentence,) = process.output.splitlines()
    assert "'absent'" in sentence
    assert "prefect work-pool create absent --type ecs" in sentence


async def test_health_address_in_use(world: World) -> None:
    taken = world.server.url.removeprefix("http://").removesuffix("/api")
    async with world.worker("--with-healthcheck", "--health-address", taken) as process:
        assert await process.wait() == 2
    *_, sentence = process.output.splitlines()
    assert sentence.startswith(f"ecs-worker: --health-address {taken} ")
    assert "Traceback" not in process.output


async def test_what_is_misspelt_is_told_and_stops_nothing(either_world: World) -> None:
    world = either_world
    template = copy.deepcopy(default_base_job_template())
    template["job_configuration"]["vpcid"] = "{{ vpc_id }}"
    await world.admin.call("PATCH", f"/work_pools/{world.pool}", json={"base_job_template": template})
    run_id = await world.run("RUNNING", "COMPLETED", memroy=4096)
    async with world.worker(env={"ECS_WORKER_LIMITS": "3"}) as process:
        await process.wait_for_output("ECS_WORKER_LIMITS has no effect")
        await process.wait_for_output(f"work pool {world.pool}: its job_configuration has 'vpcid'")
        await world.admin.wait_for_state(run_id, "COMPLETED")
        assert await process.stop() == 0
    lines = [line["message"] for line in await world.admin.logs(run_id) if "memroy" in line["message"]]
    assert len(lines) == 1, lines
    assert lines[0].endswith("Did you mean 'memory'?")


@pytest.mark.parametrize(
    ("configuration", "job", "words"),
    [
        pytest.param({}, {"aws_credentials": "{{ prefect.blocks.aws-credentials.absent }}"}, ["absent"], id="block"),
        pytest.param(
            {}, {"aws_credentials": {"$ref": {"block_document_id": NO_BLOCK}}}, [NO_BLOCK], id="block by reference"
        ),
        pytest.param({"task_definition": "none"}, {}, ["task_definition"], id="task definition"),
        pytest.param({}, {"task_start_timeout_seconds": "soon"}, ["task_start_timeout_seconds"], id="variable"),
        pytest.param({}, {"env": "A=1"}, ["env"], id="env"),
        pytest.param({}, {"command": "sh -c 'unfinished"}, ["command"], id="command"),
    ],
)
async def test_job_is_crashed_and_the_worker_goes_on(
    world: World, configuration: dict[str, Any], job: dict[str, Any], words: list[str]
) -> None:
    template = copy.deepcopy(default_base_job_template())
    template["job_configuration"] |= configuration
    # As a user's own template may be: without a word on the types of its variables.
    template["variables"]["properties"] = {name: {} for name in template["variables"]["properties"]}
    await world.admin.call("PATCH", f"/work_pools/{world.pool}", json={"base_job_template": template})
    async with world.worker() as process:
        run_id = await world.admin.create_run(await world.deploy(job_variables={"command": steps("COMPLETED"), **job}))
        run = await world.admin.wait_for_state(run_id, "CRASHED")
        for word in words:
            assert word in run["state"]["message"]
        await world.admin.call(
            "PATCH", f"/work_pools/{world.pool}", json={"base_job_template": default_base_job_template()}
        )
        again = await world.run("RUNNING", "COMPLETED")  # once the worker has read the pool again
        await world.admin.wait_for_state(again, "COMPLETED", "CRASHED")
        assert process.running
        assert await process.stop() == 0
    assert "Traceback" not in process.output
    assert run_id not in await world.launches()
