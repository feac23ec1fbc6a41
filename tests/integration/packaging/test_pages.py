"""The documents, held against the code that they tell of."""

from __future__ import annotations

import re
import sys

from ecs_worker import __version__
from ecs_worker.cli.app import command
from ecs_worker.job.upgrade import known_templates
from ecs_worker.job.variables import JobVariables
from ecs_worker.model import ContainerFacts, TaskFacts
from ecs_worker.settings import WorkerSettings
from ecs_worker.verdicts.diagnose import diagnose
from support.paths import TESTS, TOP

DOCS = TOP / "docs"


def test_the_page_of_job_variables_is_current() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import variables  # noqa: PLC0415 - a script, importable from its own directory only
    finally:
        sys.path.pop(0)
    page = variables.PAGE.read_text(encoding="utf-8")
    assert page == variables.page(), "run `make docs`"
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(JobVariables.model_fields)


def test_the_template_of_this_version_is_known() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        import templates  # noqa: PLC0415 - a script, importable from its own directory only
    finally:
        sys.path.pop(0)
    assert templates.PAGE.read_text(encoding="utf-8") == templates.page(), "run `make docs`"
    assert known_templates()[""][-1] == f"ecs-worker {__version__}"


def test_the_migration_page_names_what_exists() -> None:
    page = (DOCS / "migration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"ECS_WORKER_(\w+)", page))
    assert named <= {name.upper() for name in WorkerSettings.model_fields}
    options = {option for parameter in command("start").params for option in parameter.opts}
    of_ours = [line.split("|")[2] for line in page.splitlines() if "`ECS_WORKER_" in line]
    assert {option for cell in of_ours for option in re.findall(r"`(--?[a-z-]+)", cell)} <= options
    ours = page.partition("| `ECSRun` |")[2].partition("\n\n")[0]
    wanted = {name for line in ours.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[2])}
    assert wanted <= set(JobVariables.model_fields)
    for target in re.findall(r"\]\((\S+?)\)|`(iam/\S+)`", page):
        path = DOCS / target[0] if target[0] else DOCS.parent / target[1]
        assert path.exists(), path


def test_the_readme_shows_what_a_killed_run_says() -> None:
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    killed = TaskFacts(
        arn="",
        stop_code="EssentialContainerExited",
        stopped_reason="Essential container in task exited",
        containers=(ContainerFacts("prefect", 137),),
    )
    assert diagnose(killed, container="prefect").message in " ".join(readme.split())


def test_the_tests_that_the_page_of_crash_points_names_exist() -> None:
    page = (DOCS / "crash-points.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    named = [found for line in table for found in re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", line)]
    assert len(named) > 20
    for file, name in named:
        assert (TESTS / file).is_file(), file
        assert not name or re.search(rf"def {name}\(", (TESTS / file).read_text(encoding="utf-8")), name
