"""What is said of a Prefect API that containers can't reach. No AWS is called."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ecs_worker.aws.session import Aws
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.ops.reach import only_here, warn_of_loopback
from ecs_worker.settings import JobDefaults, PrefectSettings
from support.simulator.helpers import point_at

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio
HERE, ELSEWHERE = "http://user:secret@127.0.0.1:4200/api", "https://prefect.example.com/api"
OURS = default_base_job_template()
GIVEN = {"PREFECT_API_URL": ELSEWHERE}
WITH_DEFAULT, FIXED = copy.deepcopy(OURS), copy.deepcopy(OURS)
WITH_DEFAULT["variables"]["properties"]["env"]["default"] = GIVEN
FIXED["job_configuration"]["env"] = GIVEN


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("", monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        (HERE, True),
        ("http://localhost:4200/api", True),
        ("http://prefect.localhost/api", True),
        ("http://[::1]:4200/api", True),
        ("http://0.0.0.0:4200/api", True),
        ("http://127.9.9.9/api", True),
        (ELSEWHERE, False),
        ("http://10.0.0.7:4200/api", False),
        ("http://localhost.example.com/api", False),
        ("", False),
    ],
)
def test_only_here(url: str, here: bool) -> None:
    assert only_here(url) is here


async def told(
    caplog: pytest.LogCaptureFixture,
    url: str = HERE,
    env: Mapping[str, str] | None = None,
    template: Mapping[str, Any] = OURS,
) -> str:
    async with Aws() as aws:
        await warn_of_loopback(PrefectSettings(api_url=url), JobDefaults(env=dict(env or {})), template, aws)
    return caplog.text


async def test_a_loopback_address_and_the_real_aws(caplog: pytest.LogCaptureFixture) -> None:
    text = await told(caplog)
    assert "PREFECT_API_URL is http://127.0.0.1:4200/api, which only this machine reaches" in text
    assert "(https://ecs.us-east-1.amazonaws.com)" in text
    assert "secret" not in text


async def test_an_address_that_all_reach(caplog: pytest.LogCaptureFixture) -> None:
    assert await told(caplog, ELSEWHERE) == ""


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS"])
async def test_an_aws_on_this_machine(
    variable: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:4566")
    assert await told(caplog) == ""


@pytest.mark.parametrize(
    ("env", "template"), [(GIVEN, OURS), ({}, WITH_DEFAULT), ({}, FIXED)], ids=["worker", "default", "template"]
)
async def test_containers_with_an_address_of_their_own(
    env: dict[str, str], template: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert await told(caplog, env=env, template=template) == ""


async def test_without_a_region_others_tell_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert await told(caplog) == ""
