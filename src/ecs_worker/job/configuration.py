"""From a base job template and job variables to a validated job configuration.

render_configuration → (template.resolve_blocks, resolve_variables) → JobConfiguration.load
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from ecs_worker.errors import JobInvalid
from ecs_worker.job.shapes import Definition, RunTask  # noqa: TC001 - pydantic reads them at run time
from ecs_worker.job.template import (
    apply_environment,
    apply_values,
    environment_names,
    placeholders,
    variable_in,
    variables_of,
)
from ecs_worker.job.variables import IN_REQUESTS, INLINE_DEFINITION, PLACES, JobVariables
from ecs_worker.model import AwsCredentials, AwsTarget, Output
from ecs_worker.settings import JobDefaults, option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self


MOST_NESTED = 100  # levels; ECS's requests have about ten, and Python can't go through a thousand
_LONGEST_SHOWN = 80  # characters of a value in a message
_TEMPLATE = "the work pool's template"
# Field names whose values never stand in a message.
_SECRET = re.compile(r"secret|token|key|passw|auth|credential|env", re.IGNORECASE)


def merge_job_variables(deployment: Mapping[str, Any] | None, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """The deployment's job variables with the run's on top; only `env` merges, if the deployment's is a dict."""
    merged = {**(deployment or {})}
    for name, value in (run or {}).items():
        if name == "env" and isinstance(merged.get("env"), dict) and isinstance(value, dict | None):
            merged["env"] = merged["env"] | (value or {})
        else:
            merged[name] = value
    return merged


def origins(
    base_job_template: Mapping[str, Any],
    deployment: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
    options: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Where each job variable's value comes from, in words for messages.

    What the template doesn't ask for has no effect: if there is such a value, it is the template's own. `options`
    are the words for what the worker's options give (`context.option_origins`), below what the others say.
    """
    found = dict.fromkeys(pool_defaults(base_job_template), "the work pool's default")
    for source, variables in (("the deployment", deployment), ("the flow run", run)):
        found |= {name.split(".")[0]: f"{source}'s job variables" for name in variables or {}}
    asked = {name.split(".")[0] for name in placeholders(base_job_template.get("job_configuration"))} | {"env"}
    return {
        **dict.fromkeys(({*JobConfiguration.model_fields, *found} - asked), _TEMPLATE),
        **(options or {}),
        **{name: words for name, words in found.items() if name in asked},
    }


def origin_of(variable: str, came_from: Mapping[str, str]) -> str:
    """Where the variable came from, in brackets for messages; empty if nobody has set it. `came_from`: `origins(…)`."""
    return f" (from {came_from[variable]})" if variable in came_from else ""


def render_configuration(
    base_job_template: Mapping[str, Any],
    job_variables: Mapping[str, Any],
    environ: Mapping[str, str],
    may_read: Callable[[str], bool] = lambda _: False,
) -> dict[str, Any]:
    """The template's `job_configuration` with pool defaults and `job_variables` put in; blocks and variables stay.

    `environ` is what `{{ $NAME }}` reads: in the template and in the pool's default for `env`, which the pool's
    administrator writes, any name; in the job's own `env` those that `may_read` allows, as anybody may run a job.
    Elsewhere it stays. Arguments are not changed, but the result shares values with them.
    Raises JobInvalid if the template is malformed or variables can't be merged.
    """
    configuration = base_job_template.get("job_configuration")
    schema = base_job_template.get("variables")
    if not isinstance(configuration, dict) or not isinstance(schema, dict):
        raise JobInvalid(
            ["The work pool's base job template has no job_configuration or no variables; reset it to the default."]
        )
    defaults = pool_defaults(base_job_template)
    given = _expand_dotted(job_variables)
    if given.get("env"):
        given["env"] = apply_environment(given["env"], environ, may_read)
    variables = defaults | given
    # `env` alone merges: template < pool defaults < job variables.
    configuration = dict(configuration)
    if defaults.get("env"):
        template_env = configuration.get("env")
        configuration["env"] = (template_env if isinstance(template_env, dict) else {}) | _env(defaults["env"])
    own = _env(given["env"]) if isinstance(configuration.get("env"), dict) and given.get("env") else {}
    if own:
        configuration["env"] = {name: value for name, value in configuration["env"].items() if name not in own}
    rendered: dict[str, Any] = apply_values(configuration, variables, environ)
    if own:
        rendered["env"] |= apply_values(own, variables, None)
    return rendered


def check_nesting(
    base_job_template: Mapping[str, Any], job_variables: Mapping[str, Any], came_from: Mapping[str, str]
) -> None:
    """Raises JobInvalid for what is nested so deeply that nothing can be made of it. `came_from` is `origins(…)`."""
    deep = f"is nested more than {MOST_NESTED} levels deep, and no ECS request is; make it flatter."
    configuration = base_job_template.get("job_configuration")
    problems = []
    if nested_deeply(configuration) or nested_deeply(pool_defaults(base_job_template)):
        problems.append(f"The work pool's base job template {deep}")
    found = {variable_in(name) for name, value in job_variables.items() if nested_deeply(value, len(_parts(name)) - 1)}
    asked = {*variables_of(configuration), "env"} if found else set()
    problems += [f"{name}{origin_of(name, came_from)} {deep}" for name in sorted(found & asked)]
    if problems:
        raise JobInvalid(problems)


def nested_deeply(value: Any, level: int = 0) -> bool:
    """Whether dicts and lists stand in each other more than MOST_NESTED deep; `value` itself stands at `level`."""
    open_parts = [(value, level)]
    while open_parts:
        part, level = open_parts.pop()
        if level > MOST_NESTED:
            return True
        if isinstance(part, dict | list):
            open_parts += [(item, level + 1) for item in (part.values() if isinstance(part, dict) else part)]
    return False


def unread_environment(job_variables: Mapping[str, Any], may_read: Callable[[str], bool]) -> str:
    """One sentence about what the job's own `env` may not read of the worker's environment; empty if there is none."""
    env = [value for name, value in job_variables.items() if name.split(".")[0] == "env"]
    if not (names := [name for name in environment_names(env) if not may_read(name)]):
        return ""
    return (
        f"env asks for {', '.join(names)} of the worker's environment, which jobs may not read: that stays as it is "
        "written. Say it in the pool's default for env, or let the worker's operator allow it "
        f"({option(JobDefaults, 'job_env_from_worker')})."
    )


def declared(base_job_template: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that the template declares, and their schemas. A malformed part of it declares nothing."""
    schema = base_job_template.get("variables")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def pool_defaults(base_job_template: Mapping[str, Any]) -> dict[str, Any]:
    """What the template gives for variables that nobody sets. A malformed part of it gives nothing."""
    given = declared(base_job_template).items()
    defaults = {name: prop.get("default") for name, prop in given if isinstance(prop, dict)}
    return {name: default for name, default in defaults.items() if default is not None}


def _env(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise JobInvalid([f"env is a {type(value).__name__}, not a mapping of names to values; write {{NAME: value}}."])


def _expand_dotted(variables: Mapping[str, Any]) -> dict[str, Any]:
    """`{"env.FOO": "x"}` as `{"env": {"FOO": "x"}}`; dicts given plainly merge over that, other values replace it."""
    expanded: dict[str, Any] = {}
    for name, value in variables.items():
        if "." not in name:
            continue
        *parents, last = _parts(name)
        target = expanded
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise JobInvalid([f"The job variable {name!r} and another set the same value; remove one of them."])
        target[last] = value
    for name, value in variables.items():
        if "." not in name:
            both = isinstance(expanded.get(name), dict) and isinstance(value, dict)
            expanded[name] = deep_merge(expanded[name], value) if both else value
    return expanded


def _parts(name: str) -> list[str]:
    """The keys that a dotted variable sets; the first is the variable's own name."""
    return name.replace("[", ".").replace("]", "").split(".")


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`; dicts merge, anything else (lists too) replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


class JobConfiguration(JobVariables):
    """One run's job, rendered and valid. Takes what the templates of prefect-aws 0.4 … 0.7 and ours produce.

    Keys it doesn't know are left out; a null means the field's default. The variables of IN_REQUESTS have no values
    here: read them in the requests.
    """

    task_definition: Definition = Field(default={}, repr=False)  # the request, not the variable of this name
    task_run_request: RunTask = Field(default={}, repr=False)
    inline_task_definition: Definition = Field(default={}, repr=False)  # the variable task_definition

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_said(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None and key not in IN_REQUESTS}

    @classmethod
    def load(cls, rendered: Mapping[str, Any], came_from: Mapping[str, str] | None = None) -> Self:
        """Validate a rendered and resolved job configuration.

        `came_from` is `origins(…)`. Raises JobInvalid with every problem found.
        """
        configuration, problems = cls.salvage(rendered, came_from)
        if problems:
            raise JobInvalid(problems)
        return configuration

    @classmethod
    def salvage(
        cls, rendered: Mapping[str, Any], came_from: Mapping[str, str] | None = None, unread: Sequence[str] = ()
    ) -> tuple[Self, list[str]]:
        """The configuration without what can't be used, and a sentence for each such value.

        `unread` are texts that stand for unknown values: they are left out where no text can be.
        """
        try:
            return cls.model_validate(rendered), []
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False)
        for problem in problems:
            if problem["input"] in unread:
                return cls.salvage(_without(rendered, problem["loc"]), came_from, unread)
        wrong = {problem["loc"][0] for problem in problems}
        rest = cls.model_validate({name: value for name, value in rendered.items() if name not in wrong})
        return rest, [_sentence(problem, rendered, came_from or {}) for problem in problems]

    @property
    def target(self) -> AwsTarget:
        """The account and Region, from the `aws-credentials` block's data.

        Raises JobInvalid if the block sends the worker's own credentials where their owner didn't mean them to go.
        """
        data = {key: value for key, value in self.aws_credentials.items() if value}
        credentials = AwsCredentials(
            access_key_id=data.get("aws_access_key_id"),
            secret_access_key=data.get("aws_secret_access_key"),
            session_token=data.get("aws_session_token"),
            profile_name=data.get("profile_name"),
            assume_role_arn=data.get("assume_role_arn"),
            assume_role_kwargs=_given(data.get("assume_role_kwargs", {})),
            client_parameters=_given(data.get("aws_client_parameters", {}), use_ssl=True),
        )
        # A profile is of the worker's machine, so its credentials are no more the block's own.
        own = credentials.access_key_id or credentials.assume_role_arn
        if not own and (led_away := _led_away(credentials.client_parameters)):
            problem = (
                f"aws_credentials sets {led_away} in aws_client_parameters, but has no credentials of its own, and the "
                "worker's are not for that: add an access key or a role to the block, or leave it out (the worker's "
                "operator can set AWS_ENDPOINT_URL, HTTPS_PROXY or AWS_CA_BUNDLE)."
            )
            raise JobInvalid([problem])
        # A block that only names a Region, or nothing, means the worker's own credentials.
        return AwsTarget(None if credentials == AwsCredentials() else credentials, data.get("region_name"))

    def says(self, variable: str) -> bool:
        """Whether the job gives the variable a value of its own."""
        if variable in IN_REQUESTS:
            request, *path = IN_REQUESTS[variable].split(".")
            return _holds(getattr(self, request), path)
        name = INLINE_DEFINITION if variable == "task_definition" else variable
        return bool(getattr(self, name) != getattr(_NOTHING_SAID, name))

    @property
    def reused_definition(self) -> str | None:
        """The ARN or family of the task definition to use as it is, if the job names one."""
        return self.task_run_request.get("taskDefinition") or None

    @property
    def output(self) -> Output:
        """Where the container's CloudWatch lines are repeated."""
        if self.stream_output_to:
            return Output(self.stream_output_to)
        return Output.WORKER if self.stream_output else Output.NOWHERE

    @property
    def start_timeout(self) -> float | None:
        """How long the task may take to reach RUNNING; None: as long as it wants (0, as newer templates say)."""
        return self.task_start_timeout_seconds or None


_NOTHING_SAID = JobConfiguration()


def _given(values: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Without what is null or says what is so anyway."""
    return {key: value for key, value in values.items() if value is not None and value != defaults.get(key)}


def _led_away(parameters: Mapping[str, Any]) -> str:
    """The client parameters by which calls go to somebody else than AWS, or can be read on the way, in words."""
    config = parameters.get("config")
    proxies = ["config.proxies"] if isinstance(config, dict) and config.get("proxies") else []
    flags = [f"{name}: false" for name in ("verify", "use_ssl") if name in parameters and not parameters[name]]
    return ", ".join(["endpoint_url"] * bool(parameters.get("endpoint_url")) + flags + proxies)


def _holds(value: Any, path: Sequence[str]) -> bool:
    """Whether something stands at `path` of a request; of a list, in any item."""
    if not path:
        return bool(value)
    if isinstance(value, list):
        return any(_holds(item, path[1:]) for item in value)
    return isinstance(value, dict) and _holds(value.get(path[0]), path[1:])


def _without(value: Any, path: Sequence[str | int]) -> Any:
    """A copy of nested dicts and lists without what stands at `path`."""
    first, *rest = path
    copied: Any = list(value) if isinstance(value, list) else dict(value)
    if rest:
        copied[first] = _without(copied[first], rest)
    else:
        del copied[first]
    return copied


def _sentence(problem: Any, rendered: Mapping[str, Any], came_from: Mapping[str, str]) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path) or "The job configuration"
    request = path[:1] == ["task_definition"] or path[:1] == ["task_run_request"]
    if PLACES.get(where) in IN_REQUESTS:
        where = PLACES[where]
        origin = origin_of(where, came_from)
    elif path[:1] == [INLINE_DEFINITION]:
        where = ".".join(["task_definition", *path[1:]])
        origin = origin_of("task_definition", came_from)
    else:
        origin = "" if request else origin_of(where.split(".")[0], came_from)
    value: Any = rendered
    for part in problem["loc"]:
        value = _at(value, part)
    shown = "" if value is None or any(map(_SECRET.search, path)) else f" is {_short(value)}"
    reason = str(problem["msg"])
    return f"{where}{shown}{origin}: {reason[0].lower()}{reason[1:]}; change it or leave it out."


def _at(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _short(value: Any) -> str:
    """A value in a message: a dict or list only by its type, as it may hold anything, and no part of a long text."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    return repr(value) if len(str(value)) <= _LONGEST_SHOWN else f"a text of {len(str(value))} characters"
