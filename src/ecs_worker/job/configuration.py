"""From a base job template and job variables to a validated job configuration, and to one run's env, labels, name.

render_configuration → (template.resolve_blocks, resolve_variables) → JobConfiguration.load → prepare
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, Literal, Required

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from ecs_worker.errors import JobInvalid
from ecs_worker.job.template import apply_values, placeholders
from ecs_worker.model import AwsCredentials, AwsTarget, Output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from ecs_worker.job.context import FlowRunContext

_LONGEST_SHOWN = 80  # characters of a value in a message
# Job variables that are no fields of the job configuration → where the templates put them.
_REQUESTED = {
    "image": "task_definition.containerDefinitions.0.image",
    "family": "task_definition.family",
    "cpu": "task_definition.cpu",
    "memory": "task_definition.memory",
    "task_definition_arn": "task_run_request.taskDefinition",
    "launch_type": "task_run_request.launchType",
    "capacity_provider_strategy": "task_run_request.capacityProviderStrategy",
    "task_role_arn": "task_run_request.overrides.taskRoleArn",
}
_TEMPLATE = "the work pool's template"
DEFAULT_COMMAND = "prefect flow-run execute"
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
        **dict.fromkeys(({*_REQUESTED, *JobConfiguration.model_fields, *found} - asked), _TEMPLATE),
        **(options or {}),
        **{name: words for name, words in found.items() if name in asked},
    }


def render_configuration(
    base_job_template: Mapping[str, Any], job_variables: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, Any]:
    """The template's `job_configuration` with pool defaults and `job_variables` put in; blocks and variables stay.

    `environ` is what `{{ $NAME }}` reads. Arguments are not changed, but the result shares values with them.
    Raises JobInvalid if the template is malformed or variables can't be merged.
    """
    configuration = base_job_template.get("job_configuration")
    schema = base_job_template.get("variables")
    if not isinstance(configuration, dict) or not isinstance(schema, dict):
        raise JobInvalid(
            ["The work pool's base job template has no job_configuration or no variables; reset it to the default."]
        )
    defaults = pool_defaults(base_job_template)
    variables = defaults | _expand_dotted(job_variables)
    # `env` alone merges: template < pool defaults < job variables.
    configuration = dict(configuration)
    if defaults.get("env"):
        template_env = configuration.get("env")
        configuration["env"] = (template_env if isinstance(template_env, dict) else {}) | _env(defaults["env"])
    if isinstance(configuration.get("env"), dict) and variables.get("env"):
        configuration["env"] = configuration["env"] | _env(variables["env"])
    rendered: dict[str, Any] = apply_values(configuration, variables, environ)
    return rendered


def pool_defaults(base_job_template: Mapping[str, Any]) -> dict[str, Any]:
    """What the template gives for variables that nobody sets. A malformed part of it gives nothing."""
    schema = base_job_template.get("variables")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    given = properties.items() if isinstance(properties, dict) else ()
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
        *parents, last = name.replace("[", ".").replace("]", "").split(".")
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


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`; dicts merge, anything else (lists too) replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _text(value: Any) -> Any:
    """Numbers and flags as Prefect writes them in `env`: `str(value)`."""
    return str(value) if isinstance(value, int | float) else value


def _texts(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: None if item is None else str(item) for key, item in value.items()}


def _items(key: str) -> BeforeValidator:
    """ECS's list of objects, from the mapping that a placeholder may have put in its place."""

    def items(value: Any) -> Any:
        return [{key: k, "value": v} for k, v in value.items()] if isinstance(value, dict) else value or []

    return BeforeValidator(items)


_Text = Annotated[str | None, BeforeValidator(lambda value: _text(value) or None)]
_Texts = Annotated[dict[str, str | None], BeforeValidator(_texts)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _words(value: Any) -> Any:
    value = _text(value)
    if value is None or isinstance(value, str | list):
        return value
    raise PydanticCustomError("words", "input should be a text or a list of texts")


_Object = dict[str, Any]

if TYPE_CHECKING:
    _Container = dict[str, Any]
    _Credentials = dict[str, Any]
    _Definition = dict[str, Any]
    _DefinitionPatch = dict[str, Any]
    _Network = dict[str, Any]
    _RunTask = dict[str, Any]
else:
    # The shape of what this package reads in the templates' ECS requests; everything else passes through unread.
    class _Named(TypedDict, total=False, extra_items=Any):
        name: _Text

    class _Tag(TypedDict, total=False, extra_items=Any):
        key: Required[Annotated[str, BeforeValidator(_text)]]
        value: _Text

    class _Log(TypedDict, total=False, extra_items=Any):
        options: _Object | None

    class _Container(TypedDict, total=False, extra_items=Any):
        name: _Text
        image: _Text
        command: Annotated[Any, BeforeValidator(_words)]
        environment: Annotated[list[_Named], _items("name")]
        environmentFiles: list[_Object] | None
        secrets: list[_Named] | None
        logConfiguration: _Log | None
        linuxParameters: _Object | None
        mountPoints: list[_Object] | None
        resourceRequirements: list[_Object] | None

    class _Definition(TypedDict, total=False, extra_items=Any):
        containerDefinitions: list[_Container] | None
        family: _Text
        requiresCompatibilities: list[str] | None
        runtimePlatform: _Object | None
        tags: Annotated[list[_Tag], _items("key")]
        volumes: list[_Named] | None

    class _DefinitionPatch(_Definition, total=False, extra_items=Any):
        containerDefinitions: list[_Container]  # a null would remove the flow's, too

    class _Overrides(TypedDict, total=False, extra_items=Any):
        containerOverrides: list[_Container] | None

    class _Vpc(TypedDict, total=False, extra_items=Any):
        subnets: list[str] | None
        securityGroups: list[str] | None

    class _Network(_Vpc, total=False, extra_items=Any):
        awsvpcConfiguration: _Vpc | None

    class _Provider(TypedDict, total=False, extra_items=Any):
        capacityProvider: _Text

    class _RunTask(TypedDict, total=False, extra_items=Any):
        taskDefinition: _Text
        overrides: _Overrides | None
        networkConfiguration: _Network | None
        tags: Annotated[list[_Tag], _items("key")]
        capacityProviderStrategy: list[_Provider] | None
        volumeConfigurations: list[_Named] | None

    class _Credentials(TypedDict, total=False, extra_items=Any):
        aws_access_key_id: _Text
        aws_secret_access_key: _Text
        aws_session_token: _Text
        profile_name: _Text
        region_name: _Text
        assume_role_arn: _Text
        assume_role_kwargs: _Object | None
        aws_client_parameters: _Object | None


class Volume(BaseModel):
    """A volume and where the flow's container mounts it.

    `name`, `mount_path` and `read_only` are ours, everything else is ECS's own: `efsVolumeConfiguration`, `host`,
    `dockerVolumeConfiguration` of the definition, or RunTask's `managedEBSVolume`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    name: str
    mount_path: str
    read_only: bool = False
    managedEBSVolume: dict[str, Any] | None = None  # noqa: N815 - ECS's name

    def definition(self) -> dict[str, Any]:
        """The definition's part."""
        launch = {} if self.managedEBSVolume is None else {"configuredAtLaunch": True}
        return {"name": self.name, **(self.model_extra or {}), **launch}

    def mount_point(self) -> dict[str, Any]:
        """The container's part."""
        return {"sourceVolume": self.name, "containerPath": self.mount_path, "readOnly": self.read_only}

    def at_launch(self) -> list[dict[str, Any]]:
        """RunTask's part."""
        made = self.managedEBSVolume
        return [] if made is None else [{"name": self.name, "managedEBSVolume": made}]


class JobConfiguration(BaseModel):
    """One run's job, rendered and valid. Takes what the templates of prefect-aws 0.4 … 0.7 and ours produce.

    Keys it doesn't know are left out; a null means the field's default. Times are in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    command: _Text = None
    env: _Texts = Field(default={}, repr=False)
    labels: _Texts = Field(default={})
    name: _Text = None
    aws_credentials: _Credentials = Field(default={}, repr=False)
    task_definition: _Definition = Field(default={}, repr=False)
    task_run_request: _RunTask = Field(default={}, repr=False)
    configure_cloudwatch_logs: bool = False
    cloudwatch_logs_options: _Texts = Field(default={})
    cloudwatch_logs_prefix: _Text = None
    network_configuration: _Network = Field(default={})
    stream_output: bool = False
    task_start_timeout_seconds: _Seconds = 0
    task_watch_poll_interval: _Seconds = 0
    auto_deregister_task_definition: bool = False
    vpc_id: _Text = None
    container_name: _Text = None
    cluster: _Text = None
    match_latest_revision_in_family: bool = False
    prefect_api_key_secret_arn: _Text = None
    prefect_api_auth_string_secret_arn: _Text = None
    execution_role_arn: _Text = None

    # Beyond prefect-aws; see variables.py for what they mean.
    secrets: dict[str, str] = Field(default={}, repr=False)
    environment_files: list[str] = []
    subnets: list[str] = []
    security_groups: list[str] = []
    assign_public_ip: bool | None = None
    inherit_network: bool | None = None
    ephemeral_storage_gib: Annotated[int, Field(ge=21, le=200)] | None = None
    cpu_architecture: Literal["X86_64", "ARM64"] | None = None
    operating_system_family: _Text = None
    gpu: Annotated[int, Field(ge=1)] | None = None
    platform_version: _Text = None
    propagate_tags: Literal["TASK_DEFINITION", "NONE"] | None = None
    enable_execute_command: bool | None = None
    group: _Text = None
    placement_constraints: list[dict[str, Any]] = []
    placement_strategy: list[dict[str, Any]] = []
    volumes: list[Volume] = []
    stop_timeout_seconds: Annotated[int, Field(ge=0, le=120)] | None = None
    linux_init: bool | None = None
    readonly_root_filesystem: bool | None = None
    max_runtime_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    start_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    launch_timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900
    spot_fallback: bool = False
    stream_output_to: Literal["worker", "prefect", "both"] | None = None
    stream_containers: list[str] = []
    round_up_resources: bool = False
    derive_task_definition: bool = False
    inline_task_definition: _Definition = Field(default={}, repr=False)
    task_definition_path: _Text = None
    run_task_kwargs: _RunTask = Field(default={}, repr=False)
    run_task_kwargs_path: _Text = None
    task_definition_patch: _DefinitionPatch = Field(default={}, repr=False)
    container_patch: _Container = Field(default={}, repr=False)
    run_task_patch: _RunTask = Field(default={}, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None}

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
        """The account and Region, from the `aws-credentials` block's data."""
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
        # A block that only names a Region, or nothing, means the worker's own credentials.
        return AwsTarget(None if credentials == AwsCredentials() else credentials, data.get("region_name"))

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


def _given(values: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Without what is null or says what is so anyway."""
    return {key: value for key, value in values.items() if value is not None and value != defaults.get(key)}


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
    if where in _REQUESTED.values():
        where = next(name for name, place in _REQUESTED.items() if place == where)
        origin = _from(came_from, where)
    elif path[:1] == ["inline_task_definition"]:
        where = ".".join(["task_definition", *path[1:]])
        origin = _from(came_from, "task_definition")
    else:
        origin = "" if request else _from(came_from, where.split(".")[0])
    value: Any = rendered
    for part in problem["loc"]:
        value = _at(value, part)
    shown = "" if value is None or any(map(_SECRET.search, path)) else f" is {_short(value)}"
    reason = str(problem["msg"])
    return f"{where}{shown}{origin}: {reason[0].lower()}{reason[1:]}; change it or leave it out."


def _from(came_from: Mapping[str, str], variable: str) -> str:
    return f" (from {came_from[variable]})" if variable in came_from else ""


def _at(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _short(value: Any) -> str:
    """A value in a message: a dict or list only by its type, as it may hold anything, and no part of a long text."""
    if isinstance(value, dict | list):
        return f"a {type(value).__name__}"
    return repr(value) if len(str(value)) <= _LONGEST_SHOWN else f"a text of {len(str(value))} characters"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one run's container gets. `unset` are the variables that the job's env sets to null."""

    command: str
    env: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    unset: frozenset[str]


def prepare(configuration: JobConfiguration, context: FlowRunContext) -> Prepared:
    """Command, env and labels of one run, in the peer's order; the job's own values win.

    env: inherited PREFECT_ settings < the worker's defaults < the run's identity < the job's env. A null unsets.
    """
    env: dict[str, str | None] = {
        **context.inherited_env,
        **context.defaults.env,
        **_identity_env(context),
        **configuration.env,
    }
    labels = {**context.defaults.labels, **_identity_labels(context), **configuration.labels}
    return Prepared(
        command=configuration.command or DEFAULT_COMMAND,
        env={name: value for name, value in env.items() if value is not None},
        labels={key: value for key, value in labels.items() if value is not None},
        unset=frozenset(name for name, value in configuration.env.items() if value is None),
    )


def _identity_env(context: FlowRunContext) -> dict[str, str]:
    run = context.run
    env = {
        "PREFECT__FLOW_RUN_ID": str(run.run_id),
        "PREFECT__WORKER_NAME": context.worker_name,
        "PREFECT__FLOW_ID": str(run.flow_id),
        "PREFECT__FLOW_NAME": context.flow_name,
    }
    if context.worker_id:
        env["PREFECT__WORKER_ID"] = str(context.worker_id)
    if run.deployment_id:
        env["PREFECT__DEPLOYMENT_ID"] = str(run.deployment_id)
    if context.deployment_name:
        env["PREFECT__DEPLOYMENT_NAME"] = context.deployment_name
    return env


def _identity_labels(context: FlowRunContext) -> dict[str, str]:
    run = context.run
    labels = {
        "prefect.io/flow-run-id": str(run.run_id),
        "prefect.io/flow-run-name": run.name,
        "prefect.io/work-pool-name": context.pool_name,
        "prefect.io/work-pool-id": str(context.pool_id),
        "prefect.io/worker-name": context.worker_name,
        "prefect.io/flow-id": str(run.flow_id),
        "prefect.io/flow-name": context.flow_name,
    }
    if context.server_version:
        labels["prefect.io/version"] = context.server_version
    if run.deployment_id and context.deployment_name:
        labels["prefect.io/deployment-id"] = str(run.deployment_id)
        labels["prefect.io/deployment-name"] = context.deployment_name
        if context.deployment_updated:
            labels["prefect.io/deployment-updated"] = context.deployment_updated.astimezone(UTC).isoformat()
    return labels
