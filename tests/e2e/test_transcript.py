"""The transcript in docs/deploying.md is what the commands print."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

import pytest

from support.command_line import ecs_worker
from support.paths import TOP

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
PAGE = TOP / "docs" / "deploying.md"
BLOCK = re.compile(r"(?<=<!-- made by tests/e2e/test_transcript.py -->\n\n```text\n).*?(?=```\n)", re.DOTALL)
REGION = "us-west-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/ecs-worker:0.1.0"
# What is another one each time: how it looks, and how it is shown; `{}` counts.
CHANGES = (
    (r"(?<=-)[0-9a-f]{17}\b", "{:017x}"),  # of a VPC, a subnet, …
    (r"(?<=-)[A-Z0-9]{12}\b", "EXAMPLE{:05}"),
    (r"(?<=prefect-api-key-)[A-Za-z0-9]{6}\b", "a1B2c3"),
    (r"(?<=ecs-worker-)\S+(?= is ONLINE)", "ip-10-0-0-17-1"),
    (r"(?m)^\d\d:\d\d:\d\d", "12:00:00"),
    (r"\d+ free addresses", "8180 free addresses"),
    (r"-python3\.\d+", "-python3.11"),
)


def shown(text: str, pool: str, address: str) -> str:
    """The text, the same each time."""
    port = address.rpartition(":")[2]
    text = text.replace(pool, "my-ecs-pool").replace(address, "prefect.internal:4200").replace(f" {port}", " 4200")
    for pattern, instead in CHANGES:
        for number, name in enumerate(dict.fromkeys(re.findall(pattern, text)), 1):
            text = text.replace(name, instead.format(number))
    return "\n".join(line.rstrip() for line in text.splitlines())


async def test_the_page_shows_what_the_commands_print(admin3: Admin, aws: str, tmp_path: Path) -> None:
    """RENEW=1 writes the page anew."""
    pool = f"my-ecs-{secrets.token_hex(2)}"
    env = {"PREFECT_API_KEY": "pnu_example", "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
    url = admin3.server.url
    transcript = ""
    for command in (
        f"deploy --pool {pool} --image {IMAGE} --yes",
        f"doctor --pool {pool} --worker-role ROLE",
        f"deploy delete --pool {pool} --yes",
    ):
        role = re.search(r"--worker-role (\S+)", transcript)
        given = command.replace("ROLE", role[1]) if role else command
        ended = await ecs_worker(tmp_path, *given.split(), api_url=url, aws_url=aws, env=env)
        assert ended.code == 0, ended
        transcript += f"$ ecs-worker {given}\n{ended.out}{ended.err}\n"
    told = shown(transcript.rstrip(), pool, url.removeprefix("http://").removesuffix("/api"))
    page = PAGE.read_text(encoding="utf-8")
    (stands,) = BLOCK.findall(page)
    if os.environ.get("RENEW"):
        PAGE.write_text(BLOCK.sub(lambda _: f"{told}\n", page), encoding="utf-8")
    assert stands == f"{told}\n", "docs/deploying.md shows something else: give this test with RENEW=1"
