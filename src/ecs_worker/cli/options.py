"""Options that give settings: what one means, and how it is spelled, stands in `settings.py`."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from pydantic import BaseModel

from ecs_worker.settings import aliases, load, meaning, prefect_variable, spellings, variable

if TYPE_CHECKING:
    from collections.abc import Callable


_ALIAS = "_by_alias"  # ends the names of parameters that stand for other spellings


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its settings: in place of the one parameter of a type as in `settings.py`.

    Called, it reads them from options and, if they have some, variables. It raises UserError for those that can't be
    used.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = list(signature.parameters.values())
    (place,) = (at for at, each in enumerate(parameters) if _are_settings(each.annotation))
    taken = parameters[place]
    options = _options(taken.annotation)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        own = {option.name: given.pop(option.name) for option in options}
        for name in [name for name in own if name.endswith(_ALIAS)]:
            other = own.pop(name)
            if other is not None and other != []:
                own[name.removesuffix(_ALIAS)] = other
        # A repeatable option that is not given may be an empty list.
        settings = load(taken.annotation, **{name: value for name, value in own.items() if value != []})
        command(**given, **{taken.name: settings})

    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    keywords[place : place + 1] = options
    run.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined] # where Typer looks
    return run


def _are_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _options(settings: type[BaseModel]) -> list[inspect.Parameter]:
    """A parameter for each setting that has an option. None: not given.

    The variable is only named in the help; the settings read it themselves, so that a fault in it is told as such.
    """
    options = []
    for name, field in settings.model_fields.items():
        if others := aliases(settings, name):
            options.append(_parameter(name + _ALIAS, field.annotation, typer.Option(*others, hidden=True)))
        if not (spelled := spellings(settings, name)):
            continue
        text = meaning(settings, name)
        if field.default not in (None, (), False) and not field.is_required() and field.default_factory is None:
            text += f" [default: {field.default}]"
        if variables := [*filter(None, [variable(settings, name), prefect_variable(settings, name)])]:
            text += f" [env var: {', else '.join(variables)}]"
        told = typer.Option(*spelled, help=text, show_default=False)
        options.append(_parameter(name, field.annotation, told))
    return options


def _parameter(name: str, annotation: Any, told: Any) -> inspect.Parameter:
    kind = Annotated[_type(annotation) | None, told]  # type: ignore[valid-type] # made from the field
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _type(annotation: Any) -> Any:
    """As what the command line reads it. Most is text, which the settings judge: so they name the fault, too."""
    if get_origin(annotation) in {tuple, dict}:
        return list[str]
    return next((known for known in (bool, int, float, Path) if annotation in {known, known | None}), str)
