"""What all commands share: their help, their options, and that little is imported for both."""

from __future__ import annotations

import asyncio
import pkgutil
import sys
from typing import TYPE_CHECKING

import pytest

from ecs_worker.cli import commands
from ecs_worker.cli.app import COMMANDS, command
from ecs_worker.deploy.wishes import Wishes
from ecs_worker.settings import JobSettings, WorkerSettings, spellings
from support.command_line import ecs_worker
from support.servers.scripted import Answer, scripted
from support.servers.worker import environment

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

pytestmark = pytest.mark.anyio


_TELLING = """
import atexit, sys
from ecs_worker.cli import main
atexit.register(lambda: sys.stderr.write("\\n".join(["", *sys.modules])))
main()
"""


async def imported(home: Path, *arguments: str) -> set[str]:
    """The modules that `ecs-worker ARGUMENTS…` imports."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _TELLING, *arguments),
        env=environment(home),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=home,
    )
    _, told = await process.communicate()
    return set(told.decode().splitlines())


def test_the_sentences_are_those_of_the_commands() -> None:
    assert set(COMMANDS) == {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for name, sentence in COMMANDS.items():
        assert command(name).help.startswith(sentence), name


@pytest.mark.parametrize(("name", "settings"), [("start", WorkerSettings), ("render", JobSettings), ("deploy", Wishes)])
def test_a_setting_with_an_option_is_one_of_the_command(name: str, settings: type[BaseModel]) -> None:
    options = {parameter.name: (*parameter.opts, *parameter.secondary_opts) for parameter in command(name).params}
    for field in settings.model_fields:
        spelled = spellings(settings, field)
        assert options.get(field, ()) == tuple(part for each in spelled for part in each.split("/"))


@pytest.mark.parametrize("name", COMMANDS)
async def test_help_imports_the_options_only(tmp_path: Path, name: str) -> None:
    found = await imported(tmp_path, name, "--help")
    ours = {module for module in found if module.partition(".")[0] == "ecs_worker"}
    command_line = {f"ecs_worker.cli{part}" for part in ("", ".app", ".options", ".commands", f".commands.{name}")}
    assert f"ecs_worker.cli.commands.{name}" in ours
    declared = {f"ecs_worker.deploy{part}" for part in ("", ".template", ".wishes")} if name == "deploy" else set()
    assert ours <= {*command_line, *declared, "ecs_worker", "ecs_worker.errors", "ecs_worker.settings"}


async def test_the_list_of_commands_imports_none(tmp_path: Path) -> None:
    found = await imported(tmp_path, "--help")
    assert "ecs_worker.cli.app" in found
    assert not any(module.startswith("ecs_worker.cli.commands.") for module in found)
    assert "ecs_worker.settings" not in found


async def test_a_container_s_check_imports_next_to_nothing(tmp_path: Path) -> None:
    for arguments in (["health"], ["health", "--health-address", "127.0.0.1:9"]):
        found = await imported(tmp_path, *arguments)
        assert "ecs_worker.cli.health" in found
        assert found.isdisjoint({"typer", "pydantic", "asyncio", "ecs_worker.settings"})


@pytest.mark.parametrize("form", ["variable", "two words", "one word"])
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
async def test_health(tmp_path: Path, form: str, status: int, code: int) -> None:
    async with scripted(Answer(status=status, body={"healthy": "as told"})) as worker:
        options = {
            "two words": ["--health-address", worker.address],
            "one word": [f"--health-address={worker.address}"],
        }
        env = {"ECS_WORKER_HEALTH_ADDRESS": worker.address if form == "variable" else "127.0.0.1:9"}
        ended = await ecs_worker(tmp_path, "health", *options.get(form, []), env=env)
    assert (ended.code, ended.out, ended.err) == (code, '{"healthy": "as told"}\n', "")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:many"])
async def test_where_no_worker_answers(tmp_path: Path, address: str) -> None:
    ended = await ecs_worker(tmp_path, "health", "--health-address", address)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert ended.err.startswith(f"No worker answers at {address}: ")


async def test_help_names_the_values_that_an_option_takes(tmp_path: Path) -> None:
    told = " ".join((await ecs_worker(tmp_path, "start", "--help")).out.replace("|", " ").split())
    for values in (
        "One of FARGATE, EC2, EXTERNAL, FARGATE_SPOT.",
        "One of DEBUG, INFO, WARNING, ERROR, CRITICAL.",
        "One of console, json.",
        "ECS_WORKER_QUERY_SECONDS, else PREFECT_WORKER_QUERY_SECONDS",
    ):
        assert values in told


def test_the_options_of_prefect_s_own_worker_are_taken() -> None:
    start = command("start")
    arguments = ["-p", "pool", "-t", "ecs", "-l", "3", "-n", "w", "-q", "one", "--install-policy", "if-not-present"]
    given = start.make_context("start", [*arguments, "--prefetch-seconds", "20"]).params
    assert (given["type"], given["limit"], given["install_policy"]) == ("ecs", 3, "if-not-present")
    settings = WorkerSettings(**{name: value for name, value in given.items() if value not in (None, [])})
    assert settings.limit == 3
