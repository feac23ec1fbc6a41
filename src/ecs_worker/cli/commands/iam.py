"""`ecs-worker iam`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ecs_worker.cli.commands import new_app
from ecs_worker.cli.options import with_settings
from ecs_worker.settings import JobSettings  # noqa: TC001 - its fields become options

app = new_app(name="iam", help="The AWS rights that a work pool needs.", no_args_is_help=True)


class Whose(StrEnum):
    """Whose rights: the worker's, ECS's that starts the tasks, a deployer's, or those of `ecs-worker doctor`."""

    WORKER = "worker"
    EXECUTION = "execution"
    DEPLOYER = "deployer"
    DOCTOR = "doctor"


class Format(StrEnum):
    """How the policy is written."""

    JSON = "json"
    TERRAFORM = "terraform"


_Pool = Annotated[str | None, typer.Option("--pool", "-p", metavar="NAME", help="The work pool.", show_default=False)]
_Queue = Annotated[
    str | None,
    typer.Option(
        metavar="QUEUE",
        help="The worker's --events-queue (name or URL).",
        show_default=False,
    ),
]


@app.command()
@with_settings
def policy(
    whose: Annotated[
        Whose, typer.Argument(metavar="worker|execution|deployer|doctor", help="Whose rights.", show_default=False)
    ],
    pool: _Pool = None,
    form: Annotated[Format, typer.Option("--format", help="How the policy is written.")] = Format.JSON,
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="Only what this role needs: one of several execution roles of the pool, or the role of an "
            "aws-credentials block.",
            show_default=False,
        ),
    ] = None,
    events_queue: _Queue = None,
    *,
    defaults: JobSettings,
) -> None:
    """Print the least rights for a work pool, as an IAM policy: its deployments' own clusters, roles, secrets, logs.

    They are read from Prefect: the pool, its defaults, its deployments' job variables. Of AWS only the account's
    number and the task definitions that jobs reuse are asked for, where they can't be told otherwise. Give the worker's
    own options, too. Without --pool: the general policies of iam/, for names to fill in.

    `deployer`: for `ecs-worker deploy` in all its forms, of which Prefect needn't be asked.
    """
    from ecs_worker.cli import iam as work

    work.print_policy(
        work.Asked(pool, role, events_queue, defaults), whose.value, as_terraform=form is Format.TERRAFORM
    )


@app.command()
@with_settings
def diff(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Name or ARN of the role.", show_default=False)],
    pool: _Pool = None,
    whose: Annotated[
        Whose | None,
        typer.Option(
            "--as",
            help="What the role is for (default: an execution role of the pool is one, every other the worker's).",
            show_default=False,
        ),
    ] = None,
    events_queue: _Queue = None,
    *,
    defaults: JobSettings,
) -> None:
    """Compare what a role is allowed, by its inline and attached policies, with what a work pool needs.

    One line for each right that is missing, or that nothing needs. Exit code 1 if one is missing. Without --pool only
    the actions are compared, with those of the general policy.
    """
    from ecs_worker.cli import iam as work

    work.print_difference(work.Asked(pool, role, events_queue, defaults), whose.value if whose else None)
