"""Every setting once, with its unit and reason.

`WorkerSettings` are this worker's own (`ECS_WORKER_…`, or the options of `ecs-worker start`, whose help texts
are the descriptions here). `PrefectSettings` are read exactly where Prefect users keep them: `PREFECT_…`
variables, then the active profile. AWS is configured by botocore's own chain and has no settings here.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from ecs_worker import HEALTH_ADDRESS
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

_S = TypeVar("_S", bound=BaseModel)
_Settings = type[BaseSettings]  # for classes with a setting called `type`

# Names that never pass from the worker's environment into a container: they describe this machine or this
# worker, or only a server reads them.
_NOT_FOR_CONTAINERS = re.compile(
    r"PREFECT_(HOME|PROFILE|PROFILES_PATH|LOCAL_STORAGE_PATH|MEMO_STORE_PATH|LOGGING_SETTINGS_PATH"
    r"|TLS_INSECURE_SKIP_VERIFY_FILE|API_SSL_CERT_FILE|UI_.*|SERVER_.*|WORKER_.*|INTEGRATIONS_AWS_ECS_.*|TESTING_.*"
    r"|TEST_MODE|UNIT_TEST_MODE|RUNNER_.*)"
)


class PrefectSettings(BaseSettings):
    """How to reach the Prefect API, and what containers inherit of it.

    Source: Prefect's settings reference (`PREFECT_API_*`, `PREFECT_CLIENT_*`).
    """

    model_config = SettingsConfigDict(env_prefix="PREFECT_", extra="ignore", frozen=True, env_ignore_empty=True)

    api_url: str = Field(default="", description="URL of the Prefect API; ends in /api, or in /workspaces/… on Cloud.")
    api_key: SecretStr | None = Field(default=None, description="Cloud API key; sent as Bearer.")
    api_auth_string: SecretStr | None = Field(default=None, description="user:password; sent as Basic. Beats the key.")
    api_tls_insecure_skip_verify: bool = Field(default=False, description="Accept any TLS certificate.")
    api_ssl_cert_file: Path | None = Field(default=None, description="CA bundle for the API's certificate (PEM).")
    client_custom_headers: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="Sent with every request (JSON)."
    )
    client_csrf_support_enabled: bool = Field(default=True, description="Ask self-hosted servers for CSRF tokens.")
    inherited: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        validation_alias=AliasChoices("inherited"),
        repr=False,
        description="PREFECT_… settings that this worker's containers get, below the job's own env.",
    )

    @field_validator("api_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in {"http", "https"} or not parts.netloc):
            message = f"is {value!r}, which is no http:// or https:// URL; it should end in /api"
            raise ValueError(message)
        return value.rstrip("/")

    @field_validator("client_custom_headers", mode="before")
    @classmethod
    def _json_object(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            headers = json.loads(value)
        except ValueError:
            headers = None
        if not isinstance(headers, dict):
            # The text itself may hold a token.
            message = 'is not a JSON object of header names and values, such as {"X-Team": "data"}'
            raise ValueError(message)  # noqa: TRY004 - pydantic wants ValueError
        return headers

    @field_validator("api_ssl_cert_file")
    @classmethod
    def _existing_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            message = f"is {str(value)!r}, but there is no such file"
            raise ValueError(message)
        return value

    @property
    def shown_url(self) -> str:
        """`api_url` as it may be told: without what stands before an @."""
        parts = urlsplit(self.api_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the active profile, as for every Prefect client."""
        return (init_settings, env_settings, _ProfileSource(settings_cls))


class _ProfileSource(PydanticBaseSettingsSource):
    """The active profile of `profiles.toml`: name → value, names as the environment variables are called."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False  # __call__ answers for all fields at once

    def __call__(self) -> dict[str, Any]:
        profile = _active_profile(os.environ)
        found: dict[str, Any] = {}
        for name in self.settings_cls.model_fields:
            value = profile.get(f"PREFECT_{name.upper()}")
            if value is not None:
                found[name] = value
        found["inherited"] = {
            name: str(value)
            for name, value in {**profile, **os.environ}.items()
            if name.startswith("PREFECT_")
            and not name.startswith("PREFECT__")
            and not _NOT_FOR_CONTAINERS.fullmatch(name)
        }
        return found


class _PrefectWorkerSource(PydanticBaseSettingsSource):
    """What a `PrefectVariable` names, in the environment or else in the active profile."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False  # __call__ answers for all fields at once

    def __call__(self) -> dict[str, Any]:
        found = {**_active_profile(os.environ), **{name: value for name, value in os.environ.items() if value}}
        named = {name: prefect_variable(self.settings_cls, name) for name in self.settings_cls.model_fields}
        return {name: found[of_prefect] for name, of_prefect in named.items() if of_prefect in found}


def _active_profile(environ: Mapping[str, str]) -> dict[str, Any]:
    home = Path(environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    if not path.is_file():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            f"The Prefect profiles file {path} can't be read: {error}. "
            "Mend it, or name another in PREFECT_PROFILES_PATH."
        ) from error
    chosen = environ.get("PREFECT_PROFILE")
    active = chosen or content.get("active")
    profiles = content.get("profiles", {})
    if chosen and chosen not in profiles:
        raise UserError(
            f"PREFECT_PROFILE is {chosen!r}, but {path} has no such profile (it has: {', '.join(profiles) or 'none'})."
        )
    profile = profiles.get(active, {})
    return dict(profile) if isinstance(profile, dict) else {}


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting is spelled on the command line, the long way first. Most need none: it follows from the name."""

    spellings: tuple[str, ...]


VARIABLE_ONLY = Option(())
"""For settings that the command line does not offer."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """More spellings of a setting's option: another tool's, which help doesn't show."""

    spellings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrefectVariable:
    """The variable of `prefect worker start` that counts where ours is not set; of the environment or the profile."""

    name: str


def spellings(settings: type[BaseModel], name: str) -> tuple[str, ...]:
    """All spellings of the setting's option; none if it is only a variable. `--on/--off` for what is on by default."""
    field = settings.model_fields[name]
    flag = name.replace("_", "-")
    usual = f"--{flag}/--no-{flag}" if field.default is True else f"--{flag}"
    return next((each.spellings for each in field.metadata if isinstance(each, Option)), (usual,))


def aliases(settings: type[BaseModel], name: str) -> tuple[str, ...]:
    """The spellings of the setting's option that help doesn't show."""
    return next((each.spellings for each in settings.model_fields[name].metadata if isinstance(each, Aliases)), ())


def variable(settings: type[BaseModel], name: str) -> str:
    """The setting's environment variable; empty if it has none."""
    if not issubclass(settings, BaseSettings):
        return ""
    return f"{settings.model_config.get('env_prefix', '')}{name}".upper()


def prefect_variable(settings: type[BaseModel], name: str) -> str:
    """The variable of Prefect's own worker that counts where the setting's is not set; empty if there is none."""
    found = (each.name for each in settings.model_fields[name].metadata if isinstance(each, PrefectVariable))
    return next(found, "")


def meaning(settings: type[BaseModel], name: str) -> str:
    """What the setting means, and which values it takes if there are only a few."""
    field = settings.model_fields[name]
    kinds = (field.annotation, *get_args(field.annotation))
    values = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return (field.description or "") + (f" One of {', '.join(values)}." if len(values) > 1 else "")


def option(settings: type[BaseModel], name: str) -> str:
    """The setting's option, for messages. Raises ValueError if it is only a variable."""
    long, *_ = spellings(settings, name)
    return long.partition("/")[0]


def _default_name() -> str:
    return f"ecs-worker-{socket.gethostname()}-{os.getpid()}".replace("/", "-").replace("%", "-")


class JobDefaults(BaseModel):
    """What the worker gives its jobs where the work pool, the deployment and the run say nothing, or lets them have.

    A value like any other: only `JobSettings` reads the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: str | None = Field(
        default=None, description="ECS cluster (name or ARN) for runs whose job variables name none."
    )
    launch_type: Literal["FARGATE", "EC2", "EXTERNAL", "FARGATE_SPOT"] | None = Field(
        default=None,
        description="Launch type for runs whose job variables name none; prefect-aws's and our template name FARGATE.",
    )
    task_role_arn: str | None = Field(
        default=None, description="Role of the flow's code, for runs whose job variables name none."
    )
    execution_role_arn: str | None = Field(
        default=None, description="Role with which ECS starts the task, for runs whose job variables name none."
    )
    task_definition: str | None = Field(
        default=None,
        description="File or s3://bucket/key (YAML or JSON) with the task definition to start from, for runs whose job "
        "variables name none.",
    )
    run_task_kwargs: str | None = Field(
        default=None,
        description="File or s3://bucket/key (YAML or JSON) with arguments of RunTask; the pool's and the job's win.",
    )
    env: Annotated[dict[str, str], NoDecode, Option(("--env", "-e"))] = Field(
        default_factory=dict,
        repr=False,
        description="Environment variable KEY=VALUE of all flow containers, below the jobs' own env; repeatable, with "
        "commas or as a JSON object in the variable.",
    )
    labels: Annotated[dict[str, str], NoDecode, Option(("--label",))] = Field(
        default_factory=dict,
        description="Label KEY=VALUE of all tasks, below the jobs' own; repeatable, with commas or as a JSON object in "
        "the variable.",
    )
    inherit_network: bool = Field(
        default=False,
        description="Launch tasks in this worker's own subnet and security groups, where jobs name no network; for "
        "workers on ECS.",
    )
    documents_dir: Path | None = Field(
        default=None,
        description="Directory under which jobs may name files (task_definition_path, run_task_kwargs_path); relative "
        "paths start there (default: jobs name no files of this machine).",
    )
    job_env_from_worker: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Variable of this worker's environment, or a pattern like TEAM_*, that jobs may read by "
        "{{ $NAME }} in their own env (default: none); repeatable, with commas in the variable.",
    )

    @field_validator("launch_type", mode="before")
    @classmethod
    def _no_provider(cls, value: object) -> object:
        if value == "MANAGED_INSTANCES":
            message = (
                f"is {value!r}, but Managed Instances are reached by a capacity provider: leave this out, and name "
                "theirs in the job variable capacity_provider_strategy"
            )
            raise ValueError(message)
        return value

    @field_validator("job_env_from_worker", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        """A variable names several with commas between them."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    def lets_read(self, name: str) -> bool:
        """Whether jobs may read that variable of the worker's environment."""
        return any(fnmatchcase(name, pattern) for pattern in self.job_env_from_worker)

    @field_validator("env", "labels", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """Options come as a list of KEY=VALUE, variables as JSON or with commas. Values may be secrets: never told."""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except ValueError:
                message = "is no JSON object; write KEY=VALUE pairs with commas between, or JSON"
                raise ValueError(message) from None
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            return value
        pairs = [str(item).partition("=") for item in value]
        if not all(name.strip() and equals for name, equals, _ in pairs):
            message = "has an item that is not KEY=VALUE"
            raise ValueError(message)
        return {name.strip(): text for name, _, text in pairs}


class JobSettings(JobDefaults, BaseSettings):
    """The defaults of jobs, as this process's options and variables give them."""

    model_config = SettingsConfigDict(env_prefix="ECS_WORKER_", extra="ignore", frozen=True, env_ignore_empty=True)

    @field_validator("task_definition", "run_task_kwargs")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        """A file that is missing at the start would crash every run; what is on S3 is asked for later."""
        if value is not None and not value.startswith("s3://") and not Path(value).is_file():
            message = f"is {value!r}, but there is no such file; give a file's path, or s3://bucket/key"
            raise ValueError(message)
        return value

    @field_validator("documents_dir")
    @classmethod
    def _directory(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            message = f"is {str(value)!r}, but there is no such directory"
            raise ValueError(message)
        return value


class PoolSettings(BaseModel):
    """Which pool a worker serves, and which of its runs it takes. Times are in seconds."""

    pool: Annotated[str, Option(("--pool", "-p"))] = Field(
        min_length=1, description="Work pool to take flow runs from."
    )
    name: Annotated[str, Option(("--name", "-n"))] = Field(
        default_factory=_default_name,
        pattern=r"^[^/%]+$",
        description="This worker's name, shown in the Prefect UI; '/' and '%' are not allowed.",
    )
    work_queues: Annotated[tuple[str, ...], NoDecode, Option(("--work-queue", "-q"))] = Field(
        default=(),
        description="Only take runs from this work queue (default: all); repeatable, with commas in the variable.",
    )
    limit: Annotated[int | None, Option(("--limit", "-l"))] = Field(
        default=None,
        ge=1,
        description="Most ECS tasks at once; a task counts until it has stopped (default: no limit).",
    )
    type: Annotated[Literal["ecs"], Option(("--type", "-t"))] = Field(
        default="ecs", description="Worker type; accepted for compatibility, must be 'ecs'."
    )
    install_policy: Literal["always", "if-not-present", "never", "prompt"] = Field(
        default="prompt", description="Accepted for compatibility, without effect: there is nothing to install."
    )
    prefetch_seconds: Annotated[float, PrefectVariable("PREFECT_WORKER_PREFETCH_SECONDS")] = Field(
        default=10,
        ge=0,
        description="Take runs that are due within this many seconds; their tasks start that much early.",
    )
    query_seconds: Annotated[float, PrefectVariable("PREFECT_WORKER_QUERY_SECONDS")] = Field(
        default=10, gt=0, description="Seconds between two looks for scheduled runs."
    )
    run_once: bool = Field(
        default=False, description="Look for runs once, wait until their tasks have ended, and exit."
    )
    create_pool_if_not_found: bool = Field(default=True, description="Create the work pool if it doesn't exist.")
    base_job_template: Path | None = Field(
        default=None, description="JSON file with the base job template for a pool this worker creates."
    )

    @field_validator("type", mode="before")
    @classmethod
    def _ecs_only(cls, value: object) -> object:
        if value != "ecs":
            message = f"is {value!r}, but this worker only serves pools of type 'ecs'; leave the option out"
            raise ValueError(message)
        return value

    @field_validator("work_queues", mode="before")
    @classmethod
    def _split_queues(cls, value: object) -> object:
        """A variable names several queues with commas between them."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


class WorkerSettings(JobSettings, PoolSettings):
    """This worker's own settings. Times are in seconds.

    `--help` shows them in this order: its pool's, its jobs', then the worker's own.
    """

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Least level that the worker logs."
    )
    log_format: Literal["console", "json"] = Field(default="console", description="How the worker's log lines look.")
    events_queue: str | None = Field(
        default=None,
        pattern=r"^(https?://\S+|[A-Za-z0-9_-]{1,80})$",
        description="SQS queue (name or URL) that EventBridge fills with ECS task events: ends are told sooner.",
    )
    with_healthcheck: bool = Field(default=False, description="Serve /health and /metrics on the health address.")
    health_address: str = Field(
        default=HEALTH_ADDRESS, description="HOST:PORT of the health server; [::1]:8080 for IPv6."
    )

    heartbeat_seconds: Annotated[int, VARIABLE_ONLY] = Field(
        default=10,
        ge=1,
        description="Seconds between two heartbeats; after three missed ones other workers take over this one's runs.",
    )
    adopt_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=10, gt=0, description="Seconds between two looks for runs whose worker has died."
    )
    max_launching: Annotated[int, VARIABLE_ONLY] = Field(
        default=50,
        ge=1,
        description="Most runs between claim and launch at once; more wait, unclaimed, for other workers.",
    )
    watch_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=5,
        gt=0,
        description="Seconds between two looks at a task that starts; twice that for one that runs.",
    )
    describe_share: Annotated[float, VARIABLE_ONLY] = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Part of ECS's limit on DescribeTasks (20/s) that watching may use.",
    )
    cancel_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=10, gt=0, description="Seconds between two looks for cancelled runs."
    )
    cancel_grace_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=30, ge=0, description="How long a running flow may cancel itself before the worker stops its task."
    )
    report_grace_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=5, ge=0, description="How long after its task stopped a run may take to report its own end."
    )
    stop_seconds: Annotated[float, VARIABLE_ONLY] = Field(
        default=25,
        gt=0,
        description="Deadline for open launches after SIGTERM; ECS kills a task after 30 s by default.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: _Settings,
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where ours are not set, those of Prefect's own worker count."""
        return (init_settings, env_settings, _PrefectWorkerSource(settings_cls))

    @property
    def settle_seconds(self) -> float:
        """How long a claim without a task is left to its worker: as long as a silent worker still counts as live."""
        return 3.0 * self.heartbeat_seconds

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("health_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 <= int(port) <= 65535:  # noqa: PLR2004 - TCP's highest port
            message = f"is {value!r}; it should be HOST:PORT, for example 127.0.0.1:8080"
            raise ValueError(message)
        return value


def load(settings: type[_S], **given: Any) -> _S:
    """Read settings; values in `given` (None: not given) win over variables.

    Raises UserError with one sentence that names every setting that can't be used, and where it is set.
    """
    try:
        return settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise UserError(" ".join(_sentence(settings, dict(problem), given) for problem in error.errors())) from None


def _sentence(settings: type[BaseModel], problem: dict[str, Any], given: Mapping[str, object]) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    place = option(settings, field) if given.get(field) is not None else _set_by(settings, field)
    if problem["type"] == "missing":
        own = variable(settings, field)
        return f"{option(settings, field)} is missing: give it{f', or set {own}' if own else ''}."
    reason = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{place} {reason}."
    if problem["type"] == "string_pattern_mismatch":
        return f"{place} is {problem['input']!r}, which can't be used: {settings.model_fields[field].description}"
    shown = "" if "secret" in field or "key" in field or field == "env" else f" is {problem['input']!r}:"
    return f"{place}{shown} {reason[0].lower()}{reason[1:]}."


def _set_by(settings: type[BaseModel], field: str) -> str:
    """The variable that has given the setting's value."""
    own = variable(settings, field)
    return own if os.environ.get(own) or not field else prefect_variable(settings, field) or own
