"""`--option KEY=VALUE`: options of `ecs-worker start`, as words of the worker's command.

They are held against the real settings, so that a wrong one is told here and not by a worker that doesn't start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_origin

from ecs_worker.errors import UserError
from ecs_worker.settings import WorkerSettings, load, spellings
from ecs_worker.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What the template sets itself → what to give for it.
_OURS = {
    "pool": "--pool",
    "work_queues": "--work-queues",
    "events_queue": "--events-queue",
    "cluster": "--cluster",
    "with_healthcheck": "",
    "health_address": "",
    "log_format": "",
    "type": "",
    "run_once": "",
}
# Of the worker's own machine: whether they exist can't be told here.
_ELSEWHERE = frozenset({"documents_dir", "task_definition", "run_task_kwargs", "base_job_template"})
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def merged(before: str, given: Sequence[str]) -> str:
    """The parameter ExtraOptions: `given` over those of `before`. KEY= takes one out. Raises UserError.

    A repeatable option that is given takes the place of all that there were of it.
    """
    options = _options()
    asked: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        name = _name(key, options)
        if not equals:
            raise UserError(f"--option {text} has no value: write --option {key}=VALUE.")
        if "\n" in value:
            raise UserError(f"--option {key} has a value of several lines, which an option of the worker can't have.")
        asked.setdefault(name, []).extend([value] if value else [])
    _check(asked)
    words = {name: each for name, each in _read(before, options).items() if name not in asked}
    words |= {name: [word for value in values for word in _words(name, value)] for name, values in asked.items()}
    return "\n".join(word for each in words.values() for word in each)


def _options() -> dict[str, str]:
    """Each spelling of a long option, with `--no-` too → the setting."""
    return {
        flag: name
        for name in WorkerSettings.model_fields
        for spelled in spellings(WorkerSettings, name)
        for flag in spelled.split("/")
        if flag.startswith("--")
    }


def _name(key: str, options: Mapping[str, str]) -> str:
    plain = key.strip().lstrip("-").replace("_", "-")
    name = options.get(f"--{plain}")
    if name is None or plain.startswith("no-"):
        known = [flag.removeprefix("--") for flag in options if not flag.startswith("--no-")]
        meant = nearest(plain, known)
        did = f" Did you mean {meant}?" if meant else " `ecs-worker start --help` lists them."
        raise UserError(f"--option {key}: `ecs-worker start` has no such option.{did}")
    if name in _OURS:
        instead = f"give {_OURS[name]} in its place" if _OURS[name] else "leave it out"
        raise UserError(f"--option {key} is set by the template of a deployed worker: {instead}.")
    return name


def _check(asked: Mapping[str, list[str]]) -> None:
    given: dict[str, Any] = {}
    for name, values in asked.items():
        if not values or name in _ELSEWHERE:
            continue
        field = WorkerSettings.model_fields[name]
        if field.annotation is bool:
            if values[-1].lower() not in _YES + _NO:
                raise UserError(f"--option {_flag(name)} is {values[-1]!r}: write true or false.")
        elif get_origin(field.annotation) in {tuple, dict}:
            given[name] = values
        else:
            given[name] = values[-1]
    try:
        # Without the variables of this machine: the worker has others.
        load(WorkerSettings, pool="pool", _env_prefix="NOT_THE_WORKER_S_", **given)
    except UserError as error:
        raise UserError(f"An --option can't be used: {error}") from None


def _words(name: str, value: str) -> list[str]:
    field = WorkerSettings.model_fields[name]
    long = spellings(WorkerSettings, name)[0].split("/")
    if field.annotation is not bool:
        return [long[0], value]
    if value.lower() in _YES:
        return [long[0]]
    return long[1:]  # nothing for what is off by default


def _flag(name: str) -> str:
    return spellings(WorkerSettings, name)[0].split("/")[0].removeprefix("--")


def _read(words: str, options: Mapping[str, str]) -> dict[str, list[str]]:
    """Setting → its words, of the parameter's words."""
    found: dict[str, list[str]] = {}
    rest: Iterable[str] = iter(words.split("\n") if words else ())
    name = ""
    for word in rest:
        if word in options and (not name or _complete(found[name], name)):
            name = options[word]
        found.setdefault(name, []).append(word)
    return found


def _complete(words: Sequence[str], name: str) -> bool:
    """Whether the words of an option are all there: a value may look like an option, too."""
    return WorkerSettings.model_fields[name].annotation is bool or len(words) % 2 == 0
