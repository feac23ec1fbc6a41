"""`ecs-worker deploy template`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ecs_worker.deploy import exports, terraform
from ecs_worker.deploy.template import document
from support import stacks
from support.command_line import ecs_worker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
DOCUMENT = document(stacks.TEMPLATE)
EVENTS = exports.as_yaml(exports.events_only(DOCUMENT))


async def printed(home: Path, *options: str) -> str:
    ended = await ecs_worker(home, "deploy", "template", *options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


async def test_it_is_printed_as_it_is_or_as_json(tmp_path: Path) -> None:
    assert await printed(tmp_path) == stacks.TEMPLATE
    assert json.loads(await printed(tmp_path, "--format", "json")) == json.loads(exports.as_json(DOCUMENT))
    assert await printed(tmp_path, "--type", "events") == EVENTS


@pytest.mark.parametrize(
    ("kind", "name", "template"),
    [("service", "ecs-worker", stacks.TEMPLATE), ("events", "ecs-worker-events", EVENTS)],
    ids=["service", "events"],
)
async def test_a_module_is_written_into_a_directory(tmp_path: Path, kind: str, name: str, template: str) -> None:
    place = tmp_path / "modules" / name
    told = await printed(tmp_path, "--type", kind, "--format", "terraform", "--output", str(place))
    written = {path.name: path.read_text(encoding="utf-8") for path in place.iterdir()}
    assert written == terraform.files(name, template)
    assert all(file in told for file in written)


async def test_what_can_not_be_written_is_told(tmp_path: Path) -> None:
    ended = await ecs_worker(tmp_path, "deploy", "template", "--format", "terraform")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == ("ecs-worker: A Terraform module has several files: name a directory for them with --output.\n")
    (tmp_path / "taken").write_text("a file")
    ended = await ecs_worker(tmp_path, "deploy", "template", "--output", str(tmp_path / "taken"))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"ecs-worker: --output {tmp_path / 'taken'} can't be written: file exists.\n"
