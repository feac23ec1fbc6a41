"""AWS's own description of its requests and answers, as botocore ships it: checks both, and writes XML answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import ServiceModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# ECS adds stop codes; AWS says not to take the list for closed.
_OPEN_ENUMS = {"TaskStopCode"}
_NUMBERS = {"integer": int, "long": int, "float": (int, float), "double": (int, float), "timestamp": (int, float)}


@dataclass(frozen=True, slots=True)
class Problem:
    """Where a value leaves its shape. `kind`: type, missing, enum or unknown."""

    kind: str
    text: str


@cache
def model(service: str) -> Any:
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def input_problems(service: str, operation: str, params: Mapping[str, Any]) -> list[Problem]:
    """What AWS would refuse in a request as malformed."""
    return _problems(_checker(service, operation, "input"), params)


def output_problems(service: str, operation: str, answer: Mapping[str, Any]) -> list[Problem]:
    """Where an answer differs from what AWS documents."""
    return _problems(_checker(service, operation, "output"), answer)


def _problems(check: Callable[[Any, str, list[Problem]], None], value: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    check(value, "", problems)
    return problems


@cache
def _checker(service: str, operation: str, side: str) -> Callable[[Any, str, list[Problem]], None]:
    described = model(service).operation_model(operation)
    shape = described.input_shape if side == "input" else described.output_shape
    return _compile(shape, {}) if shape is not None else _check_empty


def _check_empty(value: Any, path: str, problems: list[Problem]) -> None:
    if value:
        problems.append(Problem("unknown", f"{path or 'answer'}: nothing is documented here, found {value!r:.60}"))


def _compile(shape: Any, known: dict[str, Callable[..., None]]) -> Callable[[Any, str, list[Problem]], None]:
    """One function per shape, so that checking costs little; shapes may contain themselves."""
    if shape.name in known:
        return _later(known, shape.name)
    known[shape.name] = _check_empty  # replaced below, before anything is checked
    match shape.type_name:
        case "structure":
            check = _structure(shape, known)
        case "list":
            check = _list(_compile(shape.member, known))
        case "map":
            check = _map(_compile(shape.value, known))
        case "string":
            closed = getattr(shape, "enum", None) and shape.name not in _OPEN_ENUMS
            check = _string(frozenset(shape.enum) if closed else frozenset())
        case "boolean":
            check = _scalar((bool,), "boolean")
        case "blob":
            check = _scalar((str,), "base64 text")
        case kind:
            check = _number(_NUMBERS[kind], kind)
    known[shape.name] = check
    return check


def _later(known: dict[str, Callable[..., None]], name: str) -> Callable[[Any, str, list[Problem]], None]:
    """The shape's check as it will be: it is still being compiled when a shape contains itself."""

    def check(value: Any, path: str, problems: list[Problem]) -> None:
        known[name](value, path, problems)

    return check


def _structure(shape: Any, known: dict[str, Callable[..., None]]) -> Callable[[Any, str, list[Problem]], None]:
    members = {name: _compile(member, known) for name, member in shape.members.items()}
    required = list(shape.required_members)

    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, dict):
            problems.append(Problem("type", f"{path or 'request'}: not a structure"))
            return
        problems += [Problem("missing", f"{path}{name} is required") for name in required if value.get(name) is None]
        for name, item in value.items():
            member = members.get(name)
            if member is None:
                problems.append(Problem("unknown", f"{path}{name} is not a member of {shape.name}"))
            else:
                member(item, f"{path}{name}.", problems)

    return check


def _list(item_check: Callable[..., None]) -> Callable[[Any, str, list[Problem]], None]:
    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, list):
            problems.append(Problem("type", f"{path[:-1]}: not a list"))
            return
        for item in value:
            item_check(item, path, problems)

    return check


def _map(item_check: Callable[..., None]) -> Callable[[Any, str, list[Problem]], None]:
    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, dict):
            problems.append(Problem("type", f"{path[:-1]}: not a map"))
            return
        for key, item in value.items():
            item_check(item, f"{path}{key}.", problems)

    return check


def _string(values: frozenset[str]) -> Callable[[Any, str, list[Problem]], None]:
    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, str):
            problems.append(Problem("type", f"{path[:-1]}: not a string"))
        elif values and value not in values:
            problems.append(Problem("enum", f"{path[:-1]}: {value!r} is not one of {sorted(values)}"))

    return check


def _scalar(types: tuple[type, ...], name: str) -> Callable[[Any, str, list[Problem]], None]:
    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, types):
            problems.append(Problem("type", f"{path[:-1]}: not a {name}"))

    return check


def _number(types: Any, name: str) -> Callable[[Any, str, list[Problem]], None]:
    def check(value: Any, path: str, problems: list[Problem]) -> None:
        if not isinstance(value, types) or isinstance(value, bool):
            problems.append(Problem("type", f"{path[:-1]}: not a {name}"))

    return check


def xml_answer(service: str, operation: str, answer: Mapping[str, Any]) -> str:
    """The answer in the service's XML protocol (`ec2` or `query`)."""
    described = model(service)
    operation_model = described.operation_model(operation)
    shape = operation_model.output_shape
    inner = "".join(_xml_members(shape, answer)) if shape is not None else ""
    wrapper = shape.serialization.get("resultWrapper") if shape is not None else None
    if wrapper:
        inner = f"<{wrapper}>{inner}</{wrapper}>"
    if described.metadata["protocol"] == "ec2":
        inner += "<requestId>simulated</requestId>"
    else:
        inner += "<ResponseMetadata><RequestId>simulated</RequestId></ResponseMetadata>"
    return f"<{operation}Response>{inner}</{operation}Response>"


def _xml_members(shape: Any, value: Mapping[str, Any]) -> list[str]:
    return [
        _xml(member, member.serialization.get("name", name), value[name])
        for name, member in shape.members.items()
        if name in value
    ]


def _xml(shape: Any, name: str, value: Any) -> str:
    match shape.type_name:
        case "structure":
            inner = "".join(_xml_members(shape, value))
        case "list":
            item = shape.member.serialization.get("name", "member")
            inner = "".join(_xml(shape.member, item, one) for one in value)
        case "boolean":
            inner = "true" if value else "false"
        case "timestamp":
            inner = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case _:
            inner = escape(str(value))
    return f"<{name}>{inner}</{name}>"
