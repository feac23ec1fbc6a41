"""The judge of the week: looks every minute whether all is as promised."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from support.servers.canned import FINAL
from support.week.fleet import LIMIT
from support.week.script import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.simulator import AwsSimulator
    from support.simulator.fleet import Task
    from support.week.book import Book, Fate
    from support.week.fleet import Fleet
    from support.week.prefect import WeekApi

SLOTS = 3
"""The concurrency limit of the deployment `slots`."""
JUDGED_AFTER = 1800.0  # seconds from a run's end until it is looked at for the last time
UNSEEN_FOR = 2400.0  # seconds within which the task of a run that has ended or was deleted must stop
OVERDUE_AFTER = 6 * HOUR  # beyond its own work
THROTTLED = 0.02  # of AWS's answers, at most
MOST_CALLS = 6000  # to either API in an hour: several times what all five workers need, and not what a hot loop does
REFUSED = 40  # calls in a minute that the Prefect API may refuse: what was under way when it began to
GROWTH = 40e6  # bytes from the second day's end to the last's
_THROTTLES = ("ThrottlingException", "RequestLimitExceeded", "Throttling")


class Judge:
    """Complains in the book."""

    def __init__(self, api: WeekApi, aws: AwsSimulator, fleet: Fleet, book: Book) -> None:
        self._api = api
        self._aws = aws
        self._fleet = fleet
        self._book = book
        self._began = time.monotonic()
        self._slots_exceeded = 0.0
        self._said: set[str] = set()
        self.memory: list[float] = []
        self.aws_calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self._by_hour: Counter[tuple[str, int]] = Counter()
        book.histories = self.history

    # -- at each launch

    def at_launch(self, fate: Fate) -> None:
        """A task is about to be launched for that run."""
        if fate.plan.deployment == "limited":
            living = [task for task in self._tasks("limited") if task.status != "STOPPED"]
            if len(living) >= LIMIT:
                runs = ", ".join(sorted({self._name(task.flow_run_id) for task in living}))
                self._book.complain(
                    f"--limit {LIMIT} is exceeded by {fate.plan.name}, while {runs} have tasks", fate.run_id
                )

    # -- every minute

    def look(self) -> None:
        """Look at all that is known now."""
        self._fleet.check()
        self._look_at_slots()
        living: dict[str, list[Task]] = {}
        for task in self._tasks():
            if task.status != "STOPPED":
                living.setdefault(task.flow_run_id, []).append(task)
        for fate in list(self._book.fates.values()):
            self._look_at(fate, living.get(fate.run_id, []))

    def _look_at(self, fate: Fate, living: list[Task]) -> None:
        now, run = time.time(), self._api.runs.get(fate.run_id)
        over = fate.deleted if run is None else fate.ended
        if run is not None and run["state_type"] in FINAL:
            over = fate.ended = fate.ended or now
        elif run is not None:
            fate.ended = None
        if over is None:
            if now - fate.since > OVERDUE_AFTER + fate.plan.seconds and not fate.overdue:
                fate.overdue = True
                self._book.complain(f"{fate.plan.name} has not ended", fate.run_id)
            return
        if living and now - over > UNSEEN_FOR and fate.run_id not in self._said:
            self._said.add(fate.run_id)
            if run is None and self._died_near(over):
                self._book.note("a deleted run's task is seen by nobody", fate.plan.name)
            else:
                self._book.complain(f"a task of {fate.plan.name} runs on", fate.run_id)
            for task in living:  # what an operator would do now
                self._stop(task)
        if not living and now - over > JUDGED_AFTER:
            self._judge(fate)

    def _judge(self, fate: Fate) -> None:
        """The run is over, and nothing of it lives."""
        run = self._api.runs.get(fate.run_id)
        state = run["state_type"] if run is not None else "DELETED"
        self._book.outcomes[f"{fate.plan.kind}: {state}"] += 1
        if run is not None and (why := self._wrong(fate, state)):
            told = run["state"]["message"] or ""
            self._book.complain(f"{fate.plan.name} ({fate.plan.kind}) is {state}, but {why}. {told}", fate.run_id)
        self._api.forget(fate.run_id)
        self._api.deleted.pop(fate.run_id, None)
        self._said.discard(fate.run_id)
        del self._book.fates[fate.run_id]

    @staticmethod
    def _wrong(fate: Fate, state: str) -> str:
        """What is wrong with that end; empty if nothing is."""
        if state == "CRASHED":
            return "" if fate.causes else "nothing happened to it"
        if state == "CANCELLED":
            return "" if fate.cancelled is not None else "nobody cancelled it"
        if state != fate.told:
            return f"its flow told {fate.told or 'nothing'}"
        return "" if fate.ran else "no task ran it"

    def _look_at_slots(self) -> None:
        working = [
            fate
            for fate in self._book.fates.values()
            if fate.plan.deployment == "slots"
            and (run := self._api.runs.get(fate.run_id)) is not None
            and run["state_type"] == "RUNNING"
        ]
        self._api.slots("")
        lapsed = [lapse for lapse in self._api.lapses if time.time() - lapse.at < HOUR]
        self._api.lapses[:] = lapsed
        if len(working) > SLOTS + len(lapsed) and time.time() - self._slots_exceeded > HOUR:
            self._slots_exceeded = time.time()
            names = ", ".join(fate.plan.name for fate in working)
            self._book.complain(f"{len(working)} runs of a deployment that allows {SLOTS}: {names}", working[0].run_id)

    # -- every day, and at the end

    def keep_little(self) -> None:
        """Count what was called, and forget it: the week's own memory stays flat, too."""
        for call in self._aws.director.calls:
            self.aws_calls[call.action] += 1
            self._by_hour["AWS", int((call.at - self._began) // HOUR)] += 1
            if call.what is None and call.outcome in _THROTTLES:
                self.throttled[call.action] += 1
        self._aws.director.calls.clear()
        for site in self._aws.sites:
            site.ecs.forget()
        self._api.listed.clear()
        self._api.read_by_id.clear()
        self.memory.append(own_memory())

    def budgets(self) -> None:
        """Whether AWS's and the Prefect API's limits were kept."""
        asked, throttled = self.aws_calls.total(), self.throttled.total()
        if throttled > THROTTLED * asked:
            self._book.complain(f"AWS throttled {throttled} of {asked} calls: {dict(self.throttled)}")
        traffic = self._api.traffic
        for minute, number in traffic.calls.items():
            self._by_hour["the Prefect API", int((minute * 60 - self._book.start) // HOUR)] += number
        for (what, hour), number in self._by_hour.items():
            if number > MOST_CALLS:
                when = self._book.clock(self._book.start + hour * HOUR)
                self._book.complain(f"{number} calls to {what} in the hour from {when}")
        worst = sorted(traffic.limited, key=lambda minute: traffic.refused[minute], reverse=True)[:5]
        for minute in worst:
            if traffic.refused[minute] > REFUSED:
                self._book.complain(
                    f"the Prefect API refused {traffic.refused[minute]} of {traffic.calls[minute]} calls in the minute "
                    f"of {self._book.clock(minute * 60.0)}"
                )

    def flat(self) -> None:
        """Whether memory was the same at the end of each day."""
        if len(self.memory) > 3 and self.memory[-1] > self.memory[1] + GROWTH:
            days = ", ".join(f"{size / 1e6:.0f} MB" for size in self.memory)
            self._book.complain(f"memory grew from day to day: {days}")

    def empty(self) -> None:
        """Whether every run came to an end that could be judged."""
        for fate in self._book.fates.values():
            self._book.complain(f"{fate.plan.name} ({fate.plan.kind}) is not at its end", fate.run_id)

    # -- what is known of a run

    def history(self, run_id: str) -> str:
        """All that is known of a run."""
        fate, clock = self._book.fates.get(run_id), self._book.clock
        lines = [f"{fate}"]
        lines += [f"{clock(at)} state {what} {why}" for at, run, what, why in self._api.recent if run == run_id]
        name = fate.plan.name if fate is not None else run_id
        for task in self._tasks():
            if task.flow_run_id == run_id:
                known = {
                    key: task.document.get(key) for key in ("lastStatus", "stopCode", "stoppedReason", "startedBy")
                }
                times = [
                    clock(task.document[key]) for key in ("createdAt", "startedAt", "stoppedAt") if key in task.document
                ]
                lines.append(f"task {task.arn}: {times} {known}")
        if (run := self._api.runs.get(run_id)) is not None:
            lines.append(f"run: labels {run['labels']}, pid {run['infrastructure_pid']}, {run['state']}")
        told = [line for line in self._book.lines if name in line[2] or run_id in line[2]]
        lines += [f"{clock(at)} {level} {text}" for at, level, text in told[-40:]]
        return "\n".join(lines)

    def _tasks(self, deployment: str = "") -> Iterator[Task]:
        for site in self._aws.sites:
            for task in site.ecs.fleet.tasks.values():
                fate = self._book.fates.get(task.flow_run_id)
                if not deployment or (fate is not None and fate.plan.deployment == deployment):
                    yield task

    def _name(self, run_id: str) -> str:
        fate = self._book.fates.get(run_id)
        return fate.plan.name if fate is not None else run_id

    def _stop(self, task: Task) -> None:
        for site in self._aws.sites:
            if site.ecs.fleet.tasks.get(task.id) is task:
                site.ecs.fleet.stop(task, "UserInitiated", "Stopped by an operator", 137)

    def _died_near(self, moment: float) -> bool:
        return any(moment - 60 <= death <= moment + 300 for death in self._fleet.deaths)


def own_memory() -> float:
    """Memory that is this process's own, in bytes: no files, no shared pages."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024.0
    raise RuntimeError("Linux tells it in /proc/self/status")
