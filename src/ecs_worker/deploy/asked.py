"""The wishes as parameters of the template, checked before anybody is asked."""

from __future__ import annotations

from ecs_worker.deploy import start_options
from ecs_worker.deploy.template import parameters
from ecs_worker.deploy.wishes import Gives, Wishes
from ecs_worker.errors import UserError
from ecs_worker.job.sizes import FARGATE, fargate_runs
from ecs_worker.settings import VARIABLE_ONLY, aliases, option


def check(wishes: Wishes) -> None:
    """Raise UserError for what can be told wrong by itself, before Prefect and AWS are asked."""
    given(wishes)
    extra_options(wishes, "")
    for one, other, both in (
        ("--cluster", "--new-cluster", wishes.cluster is not None and wishes.new_cluster),
        (
            "--prefect-api-key",
            "--prefect-api-key-secret-arn",
            None not in {wishes.prefect_api_key, wishes.prefect_api_key_secret_arn},
        ),
        (
            "--prefect-auth-string",
            "--prefect-auth-string-secret-arn",
            None not in {wishes.prefect_auth_string, wishes.prefect_auth_string_secret_arn},
        ),
    ):
        if both:
            raise UserError(f"{one} and {other} exclude each other: give one of them.")
    for name, secret in (
        ("--prefect-api-key", wishes.prefect_api_key),
        ("--prefect-auth-string", wishes.prefect_auth_string),
    ):
        if secret is not None and not secret.get_secret_value():
            raise UserError(f"{name} is empty: give the value, or leave it out.")


def without_effect(wishes: Wishes) -> list[str]:
    """A sentence for each of the other tool's options that is given and means nothing here."""
    return [
        f"{aliases(Wishes, name)[0]} is w{(field.description or '').removeprefix('W')}"
        for name, field in Wishes.model_fields.items()
        if VARIABLE_ONLY in field.metadata and getattr(wishes, name) is not None
    ]


def given(wishes: Wishes) -> dict[str, str]:
    """The template's parameters that the wishes name as they are. Raises UserError for one that can't be used."""
    found: dict[str, str] = {}
    for name, field in Wishes.model_fields.items():
        gives = next((each.parameter for each in field.metadata if isinstance(each, Gives)), None)
        value = getattr(wishes, name)
        if gives is None or value is None:
            continue
        fault = parameters()[gives].fault(value)
        if fault is not None:
            raise UserError(f"{option(Wishes, name)} {fault}.")
        found[gives] = value
    for parameter, wish in (("EventsQueue", wishes.events_queue), ("VpcEndpoints", wishes.vpc_endpoints)):
        if wish is not None:
            found[parameter] = str(wish).lower()
    return found


def extra_options(wishes: Wishes, before: str) -> str | None:
    """The parameter ExtraOptions with the wishes' options over what it was; None if they name none.

    Raises UserError for what `ecs-worker start` would not take.
    """
    return start_options.merged(before, wishes.option) if wishes.option else None


def check_size(cpu: str, memory: str) -> None:
    """Raise UserError if Fargate has no task of that size."""
    if not (memory.isdigit() and fargate_runs(int(cpu), int(memory))):
        sizes = FARGATE[int(cpu)]
        raise UserError(
            f"Fargate runs no task with --cpu {cpu} and --memory {memory}: with {cpu} CPU units, give {sizes[0]} to "
            f"{sizes[-1]} MiB, in steps of {sizes[-1] - sizes[-2]}."
        )
