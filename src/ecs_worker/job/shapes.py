"""The shape of what this package reads in job variables and in ECS requests; everything else passes through unread.

Lenient where the templates of prefect-aws and Prefect's own way with `env` are: a number becomes the text that is
wanted, a mapping the list of names and values that ECS takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Required

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

# CapacityProviderStrategyItem of the ECS API reference.
MOST_WEIGHT = 1000
MOST_BASE = 100_000


def _text(value: Any) -> Any:
    """Numbers and flags as Prefect writes them in `env`: `str(value)`."""
    return str(value) if isinstance(value, int | float) else value


def _texts(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: None if item is None else str(item) for key, item in value.items()}


def _words(value: Any) -> Any:
    value = _text(value)
    if value is None or isinstance(value, str | list):
        return value
    raise PydanticCustomError("words", "input should be a text or a list of texts")


def _items(key: str) -> BeforeValidator:
    """ECS's list of objects, from the mapping that a placeholder may have put in its place."""

    def items(value: Any) -> Any:
        return [{key: k, "value": v} for k, v in value.items()] if isinstance(value, dict) else value or []

    return BeforeValidator(items)


def shown_as(kind: Any) -> BeforeValidator:
    """What the template's schema says of a value that we read more closely, or take in more forms."""
    return BeforeValidator(lambda value: value, json_schema_input_type=kind)


Text = Annotated[str | None, BeforeValidator(lambda value: _text(value) or None)]
Texts = Annotated[dict[str, str | None], BeforeValidator(_texts)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# To switch off what is off anyway says nothing.
Switch = Annotated[bool | None, AfterValidator(lambda on: on or None)]

_Object = dict[str, Any]

if TYPE_CHECKING:
    Container = dict[str, Any]
    Credentials = dict[str, Any]
    Definition = dict[str, Any]
    DefinitionPatch = dict[str, Any]
    Network = dict[str, Any]
    RunTask = dict[str, Any]
else:

    class _Named(TypedDict, total=False, extra_items=Any):
        name: Text

    class _Tag(TypedDict, total=False, extra_items=Any):
        key: Required[Annotated[str, BeforeValidator(_text)]]
        value: Text

    class _Log(TypedDict, total=False, extra_items=Any):
        options: _Object | None

    class Container(TypedDict, total=False, extra_items=Any):
        """A container of a definition, or its override."""

        name: Text
        image: Text
        command: Annotated[Any, BeforeValidator(_words)]
        environment: Annotated[list[_Named], _items("name")]
        environmentFiles: list[_Object] | None
        secrets: list[_Named] | None
        logConfiguration: _Log | None
        linuxParameters: _Object | None
        mountPoints: list[_Object] | None
        resourceRequirements: list[_Object] | None

    class Definition(TypedDict, total=False, extra_items=Any):
        """RegisterTaskDefinition's request."""

        containerDefinitions: list[Container] | None
        family: Text
        requiresCompatibilities: list[str] | None
        runtimePlatform: _Object | None
        tags: Annotated[list[_Tag], _items("key")]
        volumes: list[_Named] | None

    class DefinitionPatch(Definition, total=False, extra_items=Any):
        """A part of it."""

        containerDefinitions: list[Container]  # a null would remove the flow's, too

    class _Overrides(TypedDict, total=False, extra_items=Any):
        containerOverrides: list[Container] | None

    class _Vpc(TypedDict, total=False, extra_items=Any):
        subnets: list[str] | None
        securityGroups: list[str] | None

    class Network(_Vpc, total=False, extra_items=Any):
        """An awsvpcConfiguration, or RunTask's wrapping of one."""

        awsvpcConfiguration: _Vpc | None

    class _Provider(TypedDict, total=False, extra_items=Any):
        capacityProvider: Text

    class RunTask(TypedDict, total=False, extra_items=Any):
        """RunTask's request."""

        taskDefinition: Text
        overrides: _Overrides | None
        networkConfiguration: Network | None
        tags: Annotated[list[_Tag], _items("key")]
        capacityProviderStrategy: list[_Provider] | None
        volumeConfigurations: list[_Named] | None

    class Credentials(TypedDict, total=False, extra_items=Any):
        """An `aws-credentials` block's data."""

        aws_access_key_id: Text
        aws_secret_access_key: Text
        aws_session_token: Text
        profile_name: Text
        region_name: Text
        assume_role_arn: Text
        assume_role_kwargs: _Object | None
        aws_client_parameters: _Object | None


class AwsCredentials(BaseModel):
    """An `aws-credentials` block. Prefect's UI offers the stored ones; the job then refers to the chosen one."""

    # Were other properties allowed, Prefect 3 would refuse a reference to a block: it would be a block itself, too.
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "block_type_slug": "aws-credentials",
            "block_schema_references": {},
            "secret_fields": ["aws_secret_access_key"],
        },
    )

    aws_access_key_id: str | None = Field(default=None, title="AWS Access Key ID")
    aws_secret_access_key: SecretStr | None = Field(default=None, title="AWS Access Key Secret")
    aws_session_token: str | None = Field(default=None, title="AWS Session Token")
    profile_name: str | None = None
    region_name: str | None = None
    aws_client_parameters: dict[str, Any] = Field(default_factory=dict, title="AWS Client Parameters")
    assume_role_arn: str | None = Field(default=None, title="Assume Role ARN")
    assume_role_kwargs: dict[str, Any] = Field(default_factory=dict, title="Assume Role Parameters")


class CapacityProvider(BaseModel):
    """One item of a capacity provider strategy."""

    capacityProvider: str = Field(title="Capacity Provider", description="Name of the capacity provider.")  # noqa: N815 - ECS's name
    weight: int = Field(default=0, ge=0, le=MOST_WEIGHT, description="Share of the tasks relative to the other items.")
    base: int = Field(default=0, ge=0, le=MOST_BASE, description="Tasks that run here first; on one item only.")


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
