"""What is measured. Each function is one repetition for one worker, and returns its figures by name."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from benchmarks.stage import until
from ecs_worker.job.variables import default_base_job_template
from support.servers.canned import FINAL
from support.simulator import LogScript, TaskScript
from support.simulator.faults import Call

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.processes import Measured
    from benchmarks.stage import Bench, Kind, Stage

Figures = dict[str, float]

FOR_EVER = TaskScript(provisioning=1.0, pending=1.0, activating=1.0, running=None)
LOG_GROUP = "/ecs/bench"
ROLE = "arn:aws:iam::123456789012:role/execution"
QUIET = 2.0  # seconds without a write, after which a burst is over
QUEUE = "bench-events"
_THROTTLES = {"ThrottlingException", "RequestLimitExceeded", "Throttling"}


async def launch(bench: Bench, kind: Kind, *, runs: int, real: bool, limits: str = "off") -> Figures:
    """A burst: so many runs of one deployment are there at once, after one that warms the worker up."""
    async with bench.stage(kind, real=real, limits=limits) as stage:
        stage.aws.ecs.scripts.default = FOR_EVER
        await stage.api.add_runs(1)
        async with stage.worker() as worker:
            await stage.api.open()
            await _launched(stage, worker, 1, 60)
            await _settled(stage, worker)
            await stage.api.add_runs(runs)
            idle, calls_before = worker.look()[0], len(stage.aws.calls)
            await stage.api.open()
            await _launched(stage, worker, 1 + runs, 60 + runs)
            ended = await _settled(stage, worker)
            calls = (await stage.api.calls()).since(idle)
            begun = calls.first_claim
            assert begun is not None, "the tasks were launched for claimed runs"
            asked = [call for call in stage.aws.calls[calls_before:] if call.action != "DescribeTasks"]
            done = [call.at + call.seconds for call in asked if call.action == "RunTask" and call.outcome == "200"]
            cpu = worker.cpu_between(idle, ended)
            figures = {
                "launches_per_s": runs / (max(done) - begun),
                "cpu_ms_per_run": 1000 * cpu / runs,
                "api_calls_per_run": len(calls.since(begun, ended)) / runs,
                "aws_calls_per_run": len(asked) / runs,
                "throttled": float(sum(call.outcome in _THROTTLES for call in stage.aws.calls)),
                "twice": float(sum(n - 1 for n in Counter(task.flow_run_id for task in stage.aws.launched).values())),
                "peak_mb": worker.peak,
            }
            if stage.api.process is not None:
                figures["server_cpu_ms_per_run"] = 1000 * stage.api.process.cpu_between(idle, ended) / runs
            return figures


async def startup(bench: Bench, kind: Kind) -> Figures:
    """From the process's start to its first look for runs."""
    async with bench.stage(kind, latency=0) as stage:
        polled = asyncio.Event()
        figures: Figures = {}
        async with stage.worker() as worker:

            def on_call(name: str) -> None:
                if name.endswith("/get_scheduled_flow_runs") and not polled.is_set():
                    at, cpu, now = worker.look()
                    figures.update(wall_s=at - worker.began, cpu_s=cpu, memory_mb=now)
                    polled.set()

            stage.canned.on_call = on_call
            await asyncio.wait_for(polled.wait(), 60)
        return figures


async def idle(bench: Bench, kind: Kind, *, seconds: float) -> Figures:
    """A worker that has nothing to do, at its default intervals, on a real server."""
    variables = {"PREFECT_WORKER_QUERY_SECONDS": "10", "ECS_WORKER_QUERY_SECONDS": "10"}
    async with bench.stage(kind, real=True) as stage, stage.worker(**variables) as worker:
        await stage.first_poll()
        await asyncio.sleep(10)  # what belongs to the start is over
        begun, cpu, _ = worker.look()
        await asyncio.sleep(seconds)
        ended, used, now = worker.look()
        minutes = (ended - begun) / 60
        calls = (await stage.api.calls()).since(begun, ended)
        return {
            "cpu_s_per_min": (used - cpu) / minutes,
            "api_calls_per_min": len(calls) / minutes,
            "memory_mb": now,
        }


async def watch(bench: Bench, kind: Kind, *, tasks: int, seconds: float) -> Figures:
    """So many tasks run, and the worker watches them: adopted, as after a restart, which is the quickest way there."""
    async with bench.stage(kind, limits="aws") as stage:
        await fleet(stage, tasks)
        async with stage.worker(ECS_WORKER_LOG_LEVEL="WARNING") as worker:
            begun = await stage.first_poll()
            adopted = await _adopted(stage, worker, tasks)
            await asyncio.sleep(15)  # every task has been looked at
            start, cpu, _ = worker.look()
            before = len(stage.aws.calls)
            await asyncio.sleep(seconds)
            end, used, now = worker.look()
            asked = stage.aws.calls[before:]
            return {
                "adopted_s": adopted - begun,
                "cores": (used - cpu) / (end - start),
                "memory_mb": now,
                "peak_mb": worker.peak,
                "aws_calls_per_s": len(asked) / (end - start),
                "throttled": float(sum(call.outcome in _THROTTLES for call in stage.aws.calls)),
            }


async def ends(bench: Bench, kind: Kind, *, tasks: int) -> Figures:
    """So many running tasks die at once (exit code 1): how long until all runs are told to have crashed.

    The peer learns of ends by its queue only, and only of tasks that were tagged at their launch: it launches them.
    """
    async with bench.stage(kind) as stage:
        stage.aws.ecs.scripts.default = FOR_EVER
        options = {"ECS_WORKER_LOG_LEVEL": "WARNING"}
        if kind == "prefect-aws":
            stage.aws.feed_events(QUEUE)
            options["PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME"] = QUEUE
            await stage.api.add_runs(tasks)
            await stage.api.open()
        else:
            await fleet(stage, tasks)
        async with stage.worker(**options) as worker:
            if kind == "prefect-aws":
                await _launched(stage, worker, tasks, 60 + tasks)
                await _running(stage, tasks)
                await _drained(stage)
            else:
                await stage.first_poll()
                await _adopted(stage, worker, tasks)
                await asyncio.sleep(12)  # each was seen to run
            died, reads = worker.look()[0], len(stage.canned.read_by_id)
            for task in stage.aws.launched:
                stage.aws.ecs.fleet.stop(task, "EssentialContainerExited", "Essential container in task exited", 1)

            async def told() -> bool:
                worker.ensure_alive()
                return stage.canned.in_state(*FINAL) >= tasks

            ended = await until(told, 60 + tasks, "all ends are told", every=0.05)
            worker.look()
            return {
                "told_s": ended - died,
                "told_per_s": tasks / (ended - died),
                "cpu_ms_per_end": 1000 * worker.cpu_between(died, ended) / tasks,
                "bulk_reads": float(len(stage.canned.read_by_id) - reads),
                "told_twice": float(sum(n - 1 for (_, state), n in stage.canned.told.items() if state in FINAL)),
            }


async def logs(bench: Bench, kind: Kind, *, streams: int, per_second: float, seconds: float) -> Figures:
    """So many streams, each so many lines a second, repeated to the worker's output. CloudWatch shows them at once."""
    variables = {
        "stream_output": True,
        "configure_cloudwatch_logs": True,
        "execution_role_arn": ROLE,
        "cloudwatch_logs_options": {"awslogs-group": LOG_GROUP},
    }
    template = default_base_job_template()  # the peer's has no `stream_output` any more
    async with bench.stage(kind, limits="aws", job_variables=variables, template=template) as stage:
        stage.aws.logs.create_group(LOG_GROUP)
        lines = int(per_second * seconds)
        stage.aws.ecs.scripts.default = TaskScript(
            running=seconds + 30, log=LogScript(rate=per_second, total=lines, size=120)
        )
        await stage.api.add_runs(streams)
        await stage.api.open()
        async with stage.worker() as worker:
            await _launched(stage, worker, streams, 120)
            await _running(stage, streams)
            begun, cpu, _ = worker.look()
            read = Output(worker.log)
            expected = streams * lines

            async def all_read() -> bool:
                worker.ensure_alive()
                read.more()
                return read.count >= expected

            ended = await until(all_read, 3 * seconds + 60, f"{expected} lines are repeated", every=0.1)
            took = time.time() - min(stream.created for task in stage.aws.launched for stream in task.streams)
            used = worker.look()[1] - cpu
            await asyncio.sleep(10)  # lines that come twice come by the next sweep
            read.more()
            counted, delays = read.result(
                {s.name: s.created for t in stage.aws.launched for s in t.streams}, per_second
            )
            return {
                "lines_per_s": expected / took,
                "missing": float(expected - len(counted)),
                "doubled": float(sum(counted.values()) - len(counted)),
                "delay_s": delays[len(delays) // 2],
                "delay_95_s": delays[int(len(delays) * 0.95)],
                "cores": used / (ended - begun),
                "cpu_us_per_line": 1_000_000 * used / expected,
                "memory_mb": worker.look()[2],
            }


class Output:
    """A worker's output as it grows: each piece, and when it was there."""

    _LINE = re.compile(rb"([\w.-]+/[\w.-]+/[0-9a-f]{32}) line (\d+)\.")

    def __init__(self, log: Path) -> None:
        self._file = log.open("rb")
        self._pieces: list[tuple[float, bytes]] = []
        self._rest = b""
        self.count = 0

    def more(self) -> None:
        """Read what is new."""
        piece = self._rest + self._file.read()
        whole, newline, self._rest = piece.rpartition(b"\n")
        if newline:
            self._pieces.append((time.time(), whole))
            self.count += whole.count(b" line ")

    def result(self, created: dict[str, float], per_second: float) -> tuple[Counter[tuple[str, int]], list[float]]:
        """How often each line came, and each line's delay in seconds, the shortest first."""
        self._file.close()
        counted: Counter[tuple[str, int]] = Counter()
        delays: list[float] = []
        for at, piece in self._pieces:
            for found in self._LINE.finditer(piece):
                stream, number = found[1].decode(), int(found[2])
                counted[stream, number] += 1
                delays.append(at - (created[stream] + (number + 1) / per_second))
        return counted, sorted(delays)


# -- what several of them do --------------------------------------------------------------


async def fleet(stage: Stage, tasks: int) -> None:
    """So many running tasks, and their runs on the canned API: launched by a worker that is no more.

    They are put there directly, not by requests: it is what comes after that is measured.
    """
    site = stage.aws.site()
    stage.aws.ecs.scripts.default = TaskScript(provisioning=0, pending=0, activating=0, running=None)
    definition = {
        "family": "bench",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "256",
        "memory": "512",
        "containerDefinitions": [{"name": "prefect", "image": "prefecthq/prefect:3-latest", "essential": True}],
    }
    registering = site.ecs.definitions.actions["RegisterTaskDefinition"](definition, _by_the_bench("Register"))
    assert not isinstance(registering, dict), "it takes its time"
    await registering
    network = {"awsvpcConfiguration": {"subnets": ["subnet-0a"], "assignPublicIp": "ENABLED"}}
    for _ in range(tasks):
        run_id = stage.canned.add_run("RUNNING")
        claim = uuid4()
        overrides = {"name": "prefect", "environment": [{"name": "PREFECT__FLOW_RUN_ID", "value": run_id}]}
        request = {
            "taskDefinition": "bench",
            "launchType": "FARGATE",
            "networkConfiguration": network,
            "overrides": {"containerOverrides": [overrides]},
            "startedBy": f"prefect/{UUID(run_id)}/{claim}",
        }
        site.ecs.actions["RunTask"](request, _by_the_bench("RunTask"))
        stage.canned.runs[run_id]["infrastructure_pid"] = f"default::{stage.aws.launched[-1].arn}"
    stage.aws.clock.run_due()


def _by_the_bench(action: str) -> Call:
    return Call(0, action, 1, "bench", "", time.monotonic())


async def _launched(stage: Stage, worker: Measured, number: int, seconds: float) -> None:
    async def enough() -> bool:
        worker.ensure_alive()
        return stage.launched() >= number

    await until(enough, seconds, f"{number} tasks are launched", every=0.05)


async def _running(stage: Stage, number: int) -> None:
    async def running() -> bool:
        return sum(task.status == "RUNNING" for task in stage.aws.launched) >= number

    await until(running, 60, f"{number} tasks run")


async def _drained(stage: Stage) -> None:
    """The queue is empty: what went before is understood."""

    async def empty() -> bool:
        return not any(sum(queue.counts()) for queue in stage.aws.sqs.queues.values())

    await until(empty, 600, "the events queue is empty")


async def _settled(stage: Stage, worker: Measured) -> float:
    """Wait until nothing has been written about runs for a while; when the last write came."""
    last: float | None = None

    async def quiet() -> bool:
        nonlocal last
        worker.ensure_alive()
        last = (await stage.api.calls()).last_write
        return last is not None and time.monotonic() - last >= QUIET

    await until(quiet, 120, "the worker has written all it has to say", every=0.5)
    worker.look()
    assert last is not None, "`quiet` has seen one"
    return last


async def _adopted(stage: Stage, worker: Measured, number: int) -> float:
    def labelled() -> int:
        return sum("prefect.worker.name" in run["labels"] for run in stage.canned.runs.values())

    async def all_adopted() -> bool:
        worker.ensure_alive()
        return labelled() >= number

    return await until(all_adopted, 60 + number / 20, f"{number} tasks are watched", every=0.5)


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
