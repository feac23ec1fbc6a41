"""The worker's Prefect credentials, as secrets that are there before the stack.

They are never parameters of the template, which everybody can read who may look at the stack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecs_worker.aws.secrets import Secret, Secrets

API_KEY, AUTH_STRING = "PrefectApiKeySecretArn", "PrefectAuthStringSecretArn"
"""The template's parameters for them."""

STACK_TAG = "ecs-worker:stack"
RECOVERY_DAYS = 7  # the least that AWS allows; until then a deleted secret can be brought back
_NAMES = {API_KEY: "prefect-api-key", AUTH_STRING: "prefect-auth-string"}
WORDS = {API_KEY: "API key", AUTH_STRING: "auth string"}
"""What the parameter's secret holds."""


class Step(StrEnum):
    """What has to be done so that the secret has the value."""

    NONE = "none"
    MAKE = "make"
    REPLACE = "replace"
    RESTORE = "restore"  # it was to be deleted, with this stack's predecessor


@dataclass(frozen=True, slots=True)
class Credential:
    """A value, the secret of ours that is to hold it, and what has to be done. `arn` is empty until it is made."""

    parameter: str
    name: str
    value: str = field(repr=False)
    step: Step
    arn: str


def secret_name(stack: str, parameter: str) -> str:
    """The name of the secret that `deploy` makes for a stack."""
    return f"ecs-worker/{stack}/{_NAMES[parameter]}"


def is_ours(arn: str, stack: str, parameter: str) -> bool:
    """Whether a secret's ARN is that of the secret that `deploy` makes; AWS adds six characters to the name."""
    name, _, suffix = arn.rpartition(":secret:")[2].rpartition("-")
    return name == secret_name(stack, parameter) and len(suffix) == 6  # noqa: PLR2004 - see above


async def plan(secrets: Secrets, stack: str, parameter: str, value: str) -> Credential:
    """What has to be done for the value. Reads only."""
    name = secret_name(stack, parameter)
    found: Secret | None = await secrets.find(name)
    if found is None:
        return Credential(parameter, name, value, Step.MAKE, "")
    if found.deleted:
        return Credential(parameter, name, value, Step.RESTORE, found.arn)
    same = await secrets.value(found.arn) == value
    return Credential(parameter, name, value, Step.NONE if same else Step.REPLACE, found.arn)


async def ensure(secrets: Secrets, stack: str, pool: str, credential: Credential) -> str:
    """Do it; the secret's ARN."""
    arn = credential.arn
    match credential.step:
        case Step.MAKE:
            what = f"Prefect {WORDS[credential.parameter]} of the worker of {pool}"
            return await secrets.create(credential.name, credential.value, what, {STACK_TAG: stack})
        case Step.RESTORE:
            await secrets.restore(arn)
            await secrets.put(arn, credential.value)
        case Step.REPLACE:
            await secrets.put(arn, credential.value)
        case Step.NONE:
            pass
    return arn
