"""`ecs-worker pool`, against Prefect 3 and Prefect 2."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from ecs_worker.job.variables import default_base_job_template
from support.command_line import ecs_worker
from support.paths import STORED_TEMPLATES
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio


def new_name() -> str:
    return f"pool-{uuid4().hex[:8]}"


async def pool_of(admin: Admin, name: str) -> dict[str, Any]:
    found: dict[str, Any] = await admin.get(f"/work_pools/{name}")
    return found


async def test_create(admin: Admin, tmp_path: Path) -> None:
    name, url = new_name(), admin.server.url
    options = ("--paused", "--concurrency-limit", "3", "--description", "nightly")
    ended = await ecs_worker(tmp_path, "pool", "create", name, *options, api_url=url, whole=True)
    assert (ended.code, ended.out) == (0, ""), ended
    pool = await pool_of(admin, name)
    assert (pool["type"], pool["is_paused"], pool["concurrency_limit"], pool["description"]) == (
        "ecs",
        True,
        3,
        "nightly",
    )
    assert pool["base_job_template"] == default_base_job_template()
    again = await ecs_worker(tmp_path, "pool", "create", name, api_url=url)
    assert again.code == 2
    assert f"There is a work pool {name!r} already" in again.err


async def test_a_limit_of_none_at_once_is_a_limit(admin: Admin, tmp_path: Path) -> None:
    name = new_name()
    ended = await ecs_worker(tmp_path, "pool", "create", name, "--concurrency-limit", "0", api_url=admin.server.url)
    assert ended.code == 0, ended
    pool = await pool_of(admin, name)
    assert (pool["is_paused"], pool["concurrency_limit"]) == (False, 0)


async def test_create_from_a_file(admin: Admin, tmp_path: Path) -> None:
    printed = await ecs_worker(tmp_path, "pool", "template")
    template = json.loads(printed.out)
    assert template == default_base_job_template()
    template["variables"]["properties"]["cpu"]["default"] = 512
    (tmp_path / "template.json").write_text(json.dumps(template))
    name = new_name()
    ended = await ecs_worker(
        tmp_path, "pool", "create", name, "--base-job-template", "template.json", api_url=admin.server.url
    )
    assert ended.code == 0, ended
    assert (await pool_of(admin, name))["base_job_template"] == template


@pytest.mark.parametrize("version", ["0_4", "0_7"])
async def test_update_keeps_edits(admin: Admin, tmp_path: Path, version: str) -> None:
    template = json.loads((STORED_TEMPLATES / f"prefect_aws_{version}_template.json").read_text("utf-8"))
    template["variables"]["properties"]["image"]["default"] = "team/image:1"
    name = await admin.create_pool(base_job_template=copy.deepcopy(template))
    url = admin.server.url

    looked = await ecs_worker(tmp_path, "pool", "update", name, "--dry-run", api_url=url)
    assert looked.code == 0, looked
    assert '+    "subnets": "{{ subnets }}",' in looked.out
    assert "team/image:1" not in [line[1:].strip() for line in looked.out.splitlines() if line[:1] in "+-"]
    assert (await pool_of(admin, name))["base_job_template"] == template

    unasked = await ecs_worker(tmp_path, "pool", "update", name, api_url=url)
    assert unasked.code == 2
    assert "give --yes" in unasked.err
    assert (await pool_of(admin, name))["base_job_template"] == template

    done = await ecs_worker(tmp_path, "pool", "update", name, "--yes", api_url=url)
    assert done.code == 0, done
    expected = default_base_job_template()
    expected["variables"]["properties"]["image"]["default"] = "team/image:1"
    if version == "0_4":  # its defaults decide what runs
        expected["variables"]["properties"]["task_start_timeout_seconds"]["default"] = 300
        expected["variables"]["properties"]["task_watch_poll_interval"]["default"] = 5.0
    assert (await pool_of(admin, name))["base_job_template"] == expected

    again = await ecs_worker(tmp_path, "pool", "update", name, "--yes", api_url=url)
    assert (again.code, again.out) == (0, "")
    assert "is up to date" in again.err


async def test_update_says_what_it_leaves_alone(admin3: Admin, tmp_path: Path) -> None:
    template = json.loads((STORED_TEMPLATES / "prefect_aws_0_7_template.json").read_text("utf-8"))
    template["variables"]["properties"]["group"] = {"type": "string"}
    template["job_configuration"]["env"] = {"GROUP": "{{ group }}"}
    del template["variables"]["properties"]["vpc_id"], template["job_configuration"]["vpc_id"]
    name = await admin3.create_pool(base_job_template=template)
    update = ("pool", "update", name, "--yes")
    for attempt in range(2):
        ended = await ecs_worker(tmp_path, *update, api_url=admin3.server.url)
        assert ended.code == 0, ended
        assert "taken out of the template" in ended.err
        assert "stay out: vpc_id. --restore" in ended.err.replace(", group", "")
        assert ("is up to date, but for these variables" in ended.err) == (attempt == 1)
        assert "bear names of ours, and they stay as they are: group." in ended.err or attempt == 1
        updated = (await pool_of(admin3, name))["base_job_template"]
        assert updated["variables"]["properties"]["group"] == {"type": "string"}
        assert updated["job_configuration"].keys().isdisjoint({"group", "vpc_id"})
        assert "subnets" in updated["job_configuration"]
    ended = await ecs_worker(tmp_path, *update, "--restore", api_url=admin3.server.url)
    assert ended.code == 0, ended
    updated = (await pool_of(admin3, name))["base_job_template"]
    assert updated["job_configuration"]["vpc_id"] == "{{ vpc_id }}"
    assert "group" not in updated["job_configuration"]


async def test_an_edit_that_comes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def pool(template: dict[str, Any]) -> Answer:
        return Answer(body={"id": str(uuid4()), "name": "p", "type": "ecs", "base_job_template": template})

    before = json.loads((STORED_TEMPLATES / "prefect_aws_0_7_template.json").read_text("utf-8"))
    edited = copy.deepcopy(before)
    edited["variables"]["properties"]["image"]["default"] = "team/image:2"
    async with scripted(pool(before), pool(edited)) as server:
        ended = await ecs_worker(tmp_path, "pool", "update", "p", "--yes", api_url=server.url)
    assert ended.code == 2, ended
    assert "Somebody has changed the base job template of work pool p meanwhile" in ended.err
    assert {request.method for request in server.requests} == {"GET"}


async def test_servers_take_the_environment_only_in_the_default_of_env(admin: Admin, tmp_path: Path) -> None:
    """As docs/job-variables.md says."""
    template = default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = {"HERE": "{{ $HOME }}"}
    assert await admin.create_pool(base_job_template=template)
    template["job_configuration"]["task_definition"]["pidMode"] = "{{ $MODE }}"
    (tmp_path / "template.json").write_text(json.dumps(template))
    create = ("pool", "create", new_name(), "--base-job-template", "template.json")
    ended = await ecs_worker(tmp_path, *create, api_url=admin.server.url)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended
    assert "$MODE" in ended.err


async def test_pools_that_can_t_be_updated(admin3: Admin, tmp_path: Path) -> None:
    other = await admin3.create_pool(type="process")
    for name, sentence in ((other, "is of type 'process', not 'ecs'"), ("no-such-pool", "There is no work pool")):
        ended = await ecs_worker(tmp_path, "pool", "update", name, "--yes", api_url=admin3.server.url)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
        assert sentence in ended.err


async def test_a_server_that_is_not_named(tmp_path: Path) -> None:
    ended = await ecs_worker(tmp_path, "pool", "update", "p", "--yes", whole=True)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "PREFECT_API_URL is not set" in ended.err
