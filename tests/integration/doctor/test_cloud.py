"""Prefect Cloud tells no version: whether it takes the key is seen by another question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.doctor.asking import Asking
from ecs_worker.doctor.checks.prefect import findings
from ecs_worker.doctor.finding import Result
from ecs_worker.doctor.gather.prefect import PrefectGatherer
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import PrefectSettings
from support.servers.scripted import Answer, scripted

if TYPE_CHECKING:
    from ecs_worker.doctor.finding import Finding

pytestmark = pytest.mark.anyio
WELL = Answer(body=True)


async def looked_at(*answers: Answer) -> dict[str, Finding]:
    async with scripted(WELL, *answers) as server:
        settings = PrefectSettings(api_url=f"{server.url}/accounts/a/workspaces/w", api_key="pnu_a-key")
        async with PrefectClient(settings, patience_seconds=0) as api:
            found = await PrefectGatherer(api, "https://cloud", Asking()).gather("pool", None)
    return {each.check: each for each in findings(found.facts)}


async def test_a_key_that_cloud_refuses_is_told() -> None:
    found = await looked_at(Answer(401, {"detail": "Invalid API key: pnu_a-key"}))
    assert found["authenticated"].result is Result.FAILED
    assert "401" in found["authenticated"].told
    assert "pnu_a-key" not in str(found)
    assert "PREFECT_API_KEY" in found["authenticated"].remedy
    assert found["work pool"].result is Result.SKIPPED


async def test_a_pool_that_cloud_does_not_have_is_told() -> None:
    found = await looked_at(Answer(404, {"detail": "Work pool not found"}))
    assert found["authenticated"].result is Result.OK
    assert found["version"].told == "Prefect Cloud"
    assert found["work pool"].result is Result.FAILED
    assert found["event stream"].result is Result.WARNING, "the scripted server has no WebSockets"


async def test_what_is_no_prefect_at_all_is_told() -> None:
    found = await looked_at(Answer(200, text="<html>Welcome</html>"))
    assert found["authenticated"].result is Result.FAILED
    assert "without JSON" in found["authenticated"].told
    assert "PREFECT_API_URL" in found["authenticated"].remedy
