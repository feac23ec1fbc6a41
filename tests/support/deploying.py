"""`ecs-worker deploy` as the tests give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support import stacks
from support.command_line import Ended, ecs_worker

if TYPE_CHECKING:
    from pathlib import Path

    from support.embedded import Aws
    from support.servers.prefect import Admin


@dataclass
class Command:
    """`ecs-worker deploy` for a pool, at an embedded AWS."""

    admin: Admin
    aws: Aws
    home: Path
    pool: str

    @property
    def stack(self) -> str:
        return f"ecs-worker-{self.pool}"

    async def __call__(
        self, *arguments: str, api_url: str | None = None, aws_url: str | None = None, **env: str
    ) -> Ended:
        return await ecs_worker(
            self.home,
            "deploy",
            *arguments,
            api_url=api_url or self.admin.server.url,
            aws_url=aws_url or self.aws.url,
            env=env,
        )

    async def new(self, *arguments: str, **given: Any) -> Ended:
        """For a new stack, without a worker in it."""
        least = ("--pool", self.pool, "--image", stacks.IMAGE, "--desired-count", "0", "--yes")
        return await self(*least, *arguments, **given)

    async def refused(self, ended: Ended, *told: str) -> None:
        """It ended with a sentence that says all this, and made nothing."""
        assert ended.code == 2, ended
        (sentence,) = [line for line in ended.err.splitlines() if not line.startswith("Note: ")]
        assert sentence.startswith("ecs-worker: "), ended
        for text in told:
            assert text in sentence, ended
        assert "Traceback" not in ended.err
        names = [each["StackName"] for each in (await self.aws.cloudformation.describe_stacks())["Stacks"]]
        assert self.stack not in names
        secrets = (await self.aws.secretsmanager.list_secrets())["SecretList"]
        assert not [each for each in secrets if self.stack in each["Name"]]

    async def well(self, *arguments: str, **given: Any) -> str:
        """What it prints, when it ends well."""
        ended = await self(*arguments, **given)
        assert ended.code == 0, ended
        return ended.out

    async def parameters(self) -> dict[str, str]:
        """What the stack has been given."""
        (found,) = (await self.aws.cloudformation.describe_stacks(StackName=self.stack))["Stacks"]
        return {each["ParameterKey"]: each["ParameterValue"] for each in found["Parameters"]}

    async def outputs(self) -> dict[str, str]:
        (found,) = (await self.aws.cloudformation.describe_stacks(StackName=self.stack))["Stacks"]
        return stacks.outputs(found)

    async def defaults(self) -> dict[str, Any]:
        """The pool's defaults that aren't empty."""
        template = (await self.admin.get(f"/work_pools/{self.pool}"))["base_job_template"]
        properties = template["variables"]["properties"]
        return {name: each["default"] for name, each in properties.items() if each.get("default") not in (None, {}, [])}
