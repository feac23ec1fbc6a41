"""`ecs-worker deploy status` and `list`: what there is. Only reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import typer

from ecs_worker.cli.deploy import at_aws
from ecs_worker.cli.server import GLANCE, prefect_api, prefect_settings
from ecs_worker.deploy import arrival, which
from ecs_worker.errors import AwsError, UserError

if TYPE_CHECKING:
    from ecs_worker.aws.cloudformation import Stack
    from ecs_worker.aws.ecs import Ecs
    from ecs_worker.deploy.wishes import Where, Which

_EVENTS = 5  # of a service, the newest


def status(asked: Which, named: str | None, *, as_json: bool) -> None:
    """Print how a stack, its service and its workers are. Raises UserError."""
    found = anyio.run(_status, asked, named)
    typer.echo(json.dumps(found, indent=2) if as_json else _text(found))


def list_stacks(where: Where, *, as_json: bool) -> None:
    """Print all stacks of deployed workers of the account in the Region. Raises UserError."""
    rows, place = anyio.run(_list, where)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(f"There is no deployed worker in {place}.", err=True)
        return
    table = [tuple(rows[0]), *(tuple(map(str, row.values())) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


async def _list(where: Where) -> tuple[list[dict[str, Any]], str]:
    async with at_aws(where) as (_, _, here):
        found = await which.all_of_ours(here.cloudformation)
        rows = [
            {
                "stack": each.name,
                "pool": which.pool_of(each),
                "status": each.status,
                "workers": each.parameters.get("DesiredCount", ""),
                "image": each.parameters.get("Image", ""),
                "changed": _when(each.updated_at or each.created_at),
            }
            for each in found
        ]
        return rows, here.place


async def _status(asked: Which, named: str | None) -> dict[str, Any]:
    async with at_aws(asked) as (_, _, here):
        stack = await which.meant(here.cloudformation, asked, named, here.place)
        told: dict[str, Any] = {
            "stack": stack.name,
            "region": here.region,
            "account": here.account,
            "status": stack.status,
            "reason": stack.reason,
            "changed": _when(stack.updated_at or stack.created_at),
            "pool": which.pool_of(stack),
            "cluster": stack.outputs.get("ClusterArn", ""),
            "log": stack.outputs.get("LogGroupName", ""),
            "service": await _service(here.ecs, stack),
        }
    return told | {"workers": await _workers(told["pool"])}


async def _service(ecs: Ecs, stack: Stack) -> dict[str, Any] | None:
    """The service and what its tasks run; None if there is none (yet)."""
    outputs = stack.outputs
    found = await ecs.service(outputs["ClusterArn"], outputs["ServiceArn"]) if "ServiceArn" in outputs else None
    if found is None:
        return None
    image = ""
    try:
        definition = await ecs.describe_definition(found.definition)
        image = next((str(each["image"]) for each in definition.request.get("containerDefinitions", ())), "")
    except AwsError:  # deregistered meanwhile
        image = "unknown"
    return {
        "name": found.name,
        "status": found.status,
        "desired": found.desired,
        "running": found.running,
        "pending": found.pending,
        "rollout": found.rollout,
        "rollout_reason": found.rollout_reason,
        "image": image,
        "task_definition": found.definition,
        "events": [{"at": _when(at), "message": text} for at, text in found.events[:_EVENTS]],
    }


async def _workers(pool: str) -> list[dict[str, str]] | str:
    """The pool's live workers; a sentence if Prefect can't tell."""
    try:
        settings = prefect_settings()
        async with prefect_api(settings, GLANCE) as api:
            return [
                {"name": each.name, "heartbeat": _when(each.last_heartbeat_time)}
                for each in await arrival.online(api, pool)
            ]
    except UserError as error:
        return str(error)


def _text(told: dict[str, Any]) -> str:
    lines = [
        f"Stack {told['stack']} in {told['region']}, account {told['account']}: {told['status']}, {told['changed']}",
    ]
    if told["reason"]:
        lines.append(f"  {told['reason']}")
    service = told["service"]
    if service is None:
        lines.append("It has no service.")
    else:
        tasks = f"{service['running']} of {service['desired']} tasks run, {service['pending']} start"
        rollout = service["rollout"] or "unknown"
        lines += [
            f"Service {service['name']}: {service['status']}, {tasks}; rollout {rollout}",
            f"Image {service['image']}",
            f"Log {told['log']}",
            *(f"  {event['at']} {event['message']}" for event in service["events"]),
        ]
    workers = told["workers"]
    if isinstance(workers, str):
        lines.append(f"Workers of {told['pool']}: can't be told. {workers}")
    elif not workers:
        lines.append(f"Workers of {told['pool']}: none is ONLINE")
    else:
        lines.append(f"Workers of {told['pool']}:")
        lines += [f"  {each['name']} ONLINE, heartbeat {_ago(each['heartbeat'])}" for each in workers]
    return "\n".join(lines)


def _when(at: datetime | None) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else ""


def _ago(text: str) -> str:
    if not text:
        return "unknown"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    return f"{max(seconds, 0):.0f} s ago"
