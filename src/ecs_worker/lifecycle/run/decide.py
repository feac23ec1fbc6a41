"""Decide: every judgement of a run's end, as values. Pure: what the server and ECS say comes in, what to do comes out.

`report` applies what is decided of runs whose task has stopped, `way` and `adopt` what is decided of those without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecs_worker.errors import AwsError, LaunchFailed, NoRoom, NotOurs, NotWanted, PrefectNotFound, UserError
from ecs_worker.lifecycle.run.claims import of_claim
from ecs_worker.model import Phase
from ecs_worker.prefect_api.schemas import StateType
from ecs_worker.verdicts.classify import Kind, classify
from ecs_worker.verdicts.codes import NO_CLUSTER
from ecs_worker.verdicts.diagnose import diagnose

if TYPE_CHECKING:
    from uuid import UUID

    from ecs_worker.lifecycle.run.run import Run
    from ecs_worker.model import TaskFacts
    from ecs_worker.prefect_api.schemas import FlowRun

# Paused, suspended, awaiting retry, rescheduled: the run goes on elsewhere or later.
ELSEWHERE = frozenset({StateType.PAUSED, StateType.SCHEDULED})
SPOT = frozenset({"SpotInterruption", "TerminationNotice"})  # stop codes of capacity that was taken away

NAMED_WITHIN = 60.0  # seconds after its task's end that an ended run is held to have the task's name written
LATER = 30.0  # seconds until a run is tried again that could not be launched because something did not answer
NO_TASK = "Its worker died, and ECS knows no task of it (any more)."


# -- what may be decided


@dataclass(frozen=True, slots=True)
class Forget:
    """The run has told its end itself, or is not ours any more."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The run may still tell its end itself, or its task's name is still to be written on it."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nothing of the cancelled run lives any more: write Cancelled."""


@dataclass(frozen=True, slots=True)
class Crash:
    """Write Crashed, for this reason."""

    why: str


@dataclass(frozen=True, slots=True)
class LookUp:
    """The run says it runs, and this task never did: look for another task of the claim. If there is none: Crash."""

    why: str


@dataclass(frozen=True, slots=True)
class StartAgain:
    """The task failed to start for a reason that passes: launch another one."""

    why: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Let the run go as it is: it is others', or the next look for orphans tells more."""


@dataclass(frozen=True, slots=True)
class Watch:
    """There is a task after all: that is the launch."""

    task: TaskFacts


@dataclass(frozen=True, slots=True)
class Stop:
    """There is a task, and others have the run: the task must not run it."""

    task: TaskFacts


@dataclass(frozen=True, slots=True)
class Release:
    """Give the run back as Scheduled, `after` seconds from now."""

    why: str
    after: float


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch the run by the claim that a dead worker made."""


# -- runs whose end is to be told


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """What the server says of a run, as far as its end is judged by it. `claim_id` None: the state tells none.

    `in_process`: should it be Scheduled, that is for its own container to go on; the server gives it to nobody else.
    """

    state_type: StateType
    claim_id: UUID | None = None
    identifier: str = ""
    in_process: bool = False

    @classmethod
    def of(cls, run: FlowRun) -> RunSnapshot:
        """What is to be known of a run."""
        return cls(
            state_type=run.state_type or StateType.SCHEDULED,  # created, and not in any state yet
            claim_id=run.state.transition_id if run.state and run.state_type is StateType.PENDING else None,
            identifier=run.infrastructure_pid or "",
            in_process=run.state_type is StateType.SCHEDULED and run.in_process,
        )


def of_ended(
    snapshot: RunSnapshot | None, run: Run, grace: float
) -> Forget | Wait | Cancel | LookUp | Crash | StartAgain:
    """What to do about a run whose task has stopped, or that has none and will have none.

    `snapshot` None: the run was deleted. A run that was claimed anew, or that names another task, belongs to that
    claim or task. `grace` (seconds): how long a task's run may take to tell its own end.
    """
    if run.handed_over or snapshot is None:
        return Forget()
    state = snapshot.state_type
    if state.final or (state in ELSEWHERE and not snapshot.in_process):
        return Wait() if _lacks_its_task(snapshot, run) else Forget()
    if not _is_of(snapshot, run):
        return Forget()
    if state is StateType.CANCELLING:
        return Cancel()
    return Wait() if run.in_phase_for < grace_of(run, grace) else _of_dead(state, run)


def _of_dead(state: StateType, run: Run) -> LookUp | Crash | StartAgain:
    """Nothing of this task lives any more, and the run doesn't know."""
    if _may_start_again(state, run):
        return StartAgain(why(run))
    return LookUp(why(run)) if _contradicts(state, run) else Crash(why(run))


def _contradicts(state: StateType, run: Run) -> bool:
    """Whether another task may be the run's: a flow can't run in one that never started, nor in another claim's."""
    began = state not in {StateType.PENDING, StateType.CANCELLING}
    return not run.proven or (began and run.task is not None and run.task.started_at is None)


def _is_of(snapshot: RunSnapshot, run: Run) -> bool:
    """Whether the run still belongs to this claim and this task."""
    named = not snapshot.identifier or run.is_named(snapshot.identifier)
    return named and of_claim(snapshot.claim_id, run.claim.claim_id)


def grace_of(run: Run, grace: float) -> float:
    """A task that never started can't tell its own end: no grace for it, nor for a run without a task."""
    return grace if run.task is not None and run.task.started_at is not None else 0.0


def only_waits(run: Run, grace: float) -> bool:
    """Whether a look would be wasted: a dead container's run has its grace, unless somebody waits for its end."""
    launched = run.launched
    if launched is None or run.cancelled:
        return False
    own = launched.task.container(launched.placement.container)
    died = own is None or own.exit_code != 0
    return died and run.in_phase_for < grace_of(run, grace)


def lost_spot(snapshot: RunSnapshot | None, run: Run) -> bool:
    """Whether the next task of the run, by whichever worker, is to go without Spot, and nobody knows that yet."""
    launched = run.launched
    if snapshot is None or launched is None or run.handed_over or run.on_demand:
        return False
    return launched.placement.spot_fallback and launched.task.stop_code in SPOT


def why(run: Run) -> str:
    """Why the run has crashed: what was decided, or what its task's end tells."""
    if run.why:
        return run.why
    launched = run.launched
    if launched is None:
        return "It has no ECS task."
    placement = launched.placement
    message = run.hide(diagnose(launched.task, container=placement.container, log=placement.log).message)
    return f"{run.stop_reason} {message}" if run.stop_reason else message


def _may_start_again(state: StateType, run: Run) -> bool:
    """A run that has begun is never started again here: what it did can't be undone."""
    launched = run.launched
    if launched is None or state is not StateType.PENDING or run.stop_reason:
        return False
    return run.starts < launched.placement.start_attempts and classify(launched.task).kind is not Kind.PERMANENT


def _lacks_its_task(snapshot: RunSnapshot, run: Run) -> bool:
    """Whether an ended run doesn't name its task yet, and soon may: `sign` writes it as long as the run is held."""
    if run.phase is not Phase.STOPPED or snapshot.identifier or not snapshot.state_type.final:
        return False
    return run.in_phase_for < NAMED_WITHIN


# -- runs without a task


class Unknown:
    """ECS could not be asked whether there is a task."""


def of_unlaunched(
    obstacle: Exception, run: Run, found: TaskFacts | Unknown | None
) -> Drop | Watch | Stop | Crash | Release:
    """What to do about a run whose way ended before it had a task. `found`: the task that it has all the same."""
    if isinstance(found, Unknown):
        return Drop()  # still Pending by our claim: `adopt` looks again, as it would after a crash
    if isinstance(obstacle, NotOurs):
        return Drop() if found is None else Stop(found)
    if found is not None:
        return Watch(found)
    if isinstance(obstacle, NotWanted) and run.unanswered:
        return Drop()  # ECS may show the task a little later: `adopt` asks once more
    # PrefectNotFound: what the job is made of was deleted, or the run itself.
    if run.cancelled or isinstance(obstacle, LaunchFailed | UserError | PrefectNotFound):
        return Crash(str(obstacle))
    return Release(str(obstacle), _after(obstacle))


def _after(obstacle: Exception) -> float:
    """When a run that is given back may be tried again: by any worker when this one leaves, and later otherwise."""
    match obstacle:
        case NotWanted():
            return 0.0
        case NoRoom(after=after):
            return after
        case _:  # the Prefect API could not tell what the launch needs
            return LATER


def of_orphan(state: StateType | None, obstacle: str) -> Launch | Crash:
    """What to do about a run that its dead worker had claimed, and of which ECS knows no task.

    `obstacle`: why it can't be launched. A Cancelling run is ended like any other: `of_ended` says Cancelled then.
    """
    if state is not StateType.PENDING:
        return Crash(NO_TASK)
    return Crash(obstacle) if obstacle else Launch()


def lets_launch_tell(error: AwsError, state: StateType | None) -> bool:
    """Whether a look-up that failed so means that there is no task, or that a launch by the same claim tells best.

    Without its cluster there is no task.
    """
    unlaunched = state is StateType.PENDING and classify(error).kind is Kind.PERMANENT
    return error.code == NO_CLUSTER or unlaunched
