"""Every error this package raises on purpose.

EcsWorkerError
├── UserError                 a mistake in what the user gave: one sentence with the remedy, no traceback
│   └── JobInvalid            one run's job can't be launched as it is; carries every problem found
├── PrefectError              the Prefect API did not do what was asked
│   ├── PrefectUnreachable    no answer at all, after the retries: the outcome is unknown
│   ├── PrefectUnavailable    answered 408, 429, 502, 503 or a proxy's 404 to every retry: the outcome is unknown
│   ├── PrefectUnauthorized   401 or 403
│   ├── PrefectNotFound       404, in Prefect's words
│   └── PrefectRejected       any other status that is not a success (409, 422, 500 …)
├── DocumentUnread            a file of the worker's machine can't be read now; another worker, or a later look, may
├── AwsError                  AWS did not do what was asked (see `verdicts/classify.py` for what follows from it)
├── NoTask                    a run's way ends before it has a task
│   ├── LaunchFailed          ECS launched no task and will launch none: the run has crashed
│   ├── NotWanted             the run was cancelled, or this worker stops
│   ├── NoRoom                too many launches wait there already: the run is given back for later
│   └── NotOurs               the run is somebody else's by now
└── CleanupFailed             an order of the worker channel can't be carried out

Errors are translated at the edge: `prefect_api` and `aws` raise only these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class EcsWorkerError(Exception):
    """Base of all errors of this package.

    `hide` takes secrets out of the text whenever it is told: set it where it is known which secrets were sent.
    """

    hide: Callable[[str], str] = str

    def __str__(self) -> str:
        return self.hide(super().__str__())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class UserError(EcsWorkerError):
    """What the user gave can't work. The message says what is wrong, where it came from and what to do."""


class JobInvalid(UserError):
    """A run's job can't be turned into valid ECS requests.

    `problems` holds one sentence per problem, all that were found.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(" ".join(self.problems))


class DocumentUnread(EcsWorkerError):
    """A file that a job names can't be read at the moment, as its disk doesn't answer."""


class PrefectError(EcsWorkerError):
    """The Prefect API did not do what was asked. Messages never hold request bodies or credentials."""


class PrefectUnreachable(PrefectError):
    """No answer came, after all retries: whether the request took effect is unknown."""


class PrefectUnavailable(PrefectError):
    """The API answered 408, 429, 502, 503 or a proxy's 404 to every retry: the request may have taken effect."""


class PrefectUnauthorized(PrefectError):
    """The API answered 401 or 403."""


class PrefectNotFound(PrefectError):
    """The API answered 404: the object does not exist (any more)."""


class PrefectRejected(PrefectError):
    """The API answered with another error status, kept in `status`."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class AwsError(EcsWorkerError):
    """An AWS call failed.

    `operation` is the API action, `code` AWS's error code (or the SDK exception's name when no answer came),
    `status` the HTTP status (None when no answer came), `resource_ids` the existing resources that a
    ConflictException names. `retried`: the SDK had asked before, and this is the answer to its last attempt only.
    """

    def __init__(
        self,
        operation: str,
        code: str,
        message: str,
        *,
        status: int | None = None,
        resource_ids: Sequence[str] = (),
        retried: bool = False,
    ) -> None:
        self.operation = operation
        self.code = code
        self.message = message
        self.status = status
        self.resource_ids = tuple(resource_ids)
        self.retried = retried
        super().__init__(f"{operation}: {code}: {message}")


class NoTask(EcsWorkerError):
    """A run's way ends before it has a task; `lifecycle/run/decide.py` says what follows."""


class LaunchFailed(NoTask):
    """No task was launched and none will be: the message says why and what to do."""


class NotWanted(NoTask):
    """The run was cancelled, or this worker is stopping, before a task was launched."""


class NoRoom(NoTask):
    """Too many launches wait where this run is to go: it may be tried again `after` seconds."""

    def __init__(self, message: str, after: float) -> None:
        self.after = after
        super().__init__(message)


class NotOurs(NoTask):
    """While the launch waited the run was deleted, rescheduled or ended by others: it is theirs now."""


class CleanupFailed(EcsWorkerError):
    """An order of the worker channel names something that is no ECS task."""
