"""ECS task definitions and services in CloudFormation templates, with all their properties.

moto's own classes ignore most properties. moto looks for a resource type's class among the direct subclasses of
CloudFormationModel, and of two classes for one type it takes the one defined later. So these must be imported before
the first stack is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moto.core.common_models import CloudFormationModel
from moto.ecs.models import Service, ecs_backends

if TYPE_CHECKING:
    from collections.abc import Mapping

# Members whose keys are chosen by users, not by AWS.
_USERS_KEYS = frozenset({"Options", "DockerLabels", "DriverOpts", "Labels"})
_ODD_NAMES = {
    "EFSVolumeConfiguration": "efsVolumeConfiguration",
    "IAM": "iam",
    "EnableECSManagedTags": "enableECSManagedTags",
}
_REGISTERED = {
    "Cpu": "cpu",
    "Memory": "memory",
    "NetworkMode": "network_mode",
    "RequiresCompatibilities": "requires_compatibilities",
    "TaskRoleArn": "task_role_arn",
    "ExecutionRoleArn": "execution_role_arn",
    "Volumes": "volumes",
    "PlacementConstraints": "placement_constraints",
    "RuntimePlatform": "runtime_platform",
    "EphemeralStorage": "ephemeral_storage",
    "IpcMode": "ipc_mode",
    "PidMode": "pid_mode",
    "ProxyConfiguration": "proxy_configuration",
    "Tags": "tags",
}


def api_names(value: Any) -> Any:
    """A template's properties with the API's names: `LogConfiguration` → `logConfiguration`, however deep."""
    if isinstance(value, list):
        return [api_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _ODD_NAMES.get(name, name[:1].lower() + name[1:]): item if name in _USERS_KEYS else api_names(item)
        for name, item in value.items()
    }


class Declared:
    """A resource type; moto asks for its declaration by methods. `NAMED_BY` is the property that holds the name."""

    TYPE: ClassVar[str]
    NAMED_BY: ClassVar[str] = ""  # it has no name of its own

    @classmethod
    def cloudformation_name_type(cls) -> str:
        """The property that holds its name."""
        return cls.NAMED_BY

    @classmethod
    def cloudformation_type(cls) -> str:
        """The resource type."""
        return cls.TYPE


def rollout_of(resource: Any) -> bool | None:
    """Whether a stack's resource is what it is to be: False for a service that failed, None if it is on its way."""
    if not isinstance(resource, Service) or resource.status != "ACTIVE":
        return True
    backend = ecs_backends[resource._account_id][resource.region_name]  # noqa: SLF001 - moto has no other way
    told: bool | None = backend.scheduler.rollout(resource)
    return told


class ClusterResource(Declared, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::ECS::Cluster."""

    __module__ = "moto.ecs.models"  # moto derives the service from it

    TYPE = "AWS::ECS::Cluster"
    NAMED_BY = "ClusterName"

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Whether Fn::GetAtt knows the attribute."""
        return attr == "Arn"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Any:
        """Make the cluster, with its capacity providers."""
        given = api_names(cloudformation_json["Properties"])
        return ecs_backends[account_id][region_name].create_cluster(
            resource_name,
            tags=given.get("tags"),
            cluster_settings=given.get("clusterSettings"),
            configuration=given.get("configuration"),
            capacity_providers=given.get("capacityProviders"),
            default_capacity_provider_strategy=given.get("defaultCapacityProviderStrategy"),
        )

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,  # noqa: ARG003 - moto makes a new one each time
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        """Change the cluster's settings and capacity providers."""
        given, backend = api_names(cloudformation_json["Properties"]), ecs_backends[account_id][region_name]
        name = original_resource.name
        backend.update_cluster(name, given.get("clusterSettings"), given.get("configuration"), None)
        providers, strategy = given.get("capacityProviders") or [], given.get("defaultCapacityProviderStrategy") or []
        return backend.put_cluster_capacity_providers(name, providers, strategy)

    @classmethod
    def delete_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],  # noqa: ARG003 - moto passes it
        account_id: str,
        region_name: str,
    ) -> None:
        """Delete the cluster."""
        ecs_backends[account_id][region_name].delete_cluster(resource_name)


class TaskDefinitionResource(Declared, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::ECS::TaskDefinition."""

    __module__ = "moto.ecs.models"  # moto derives the service from it

    TYPE = "AWS::ECS::TaskDefinition"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Any:
        """Register the task definition."""
        properties = cloudformation_json["Properties"]
        given = {name: api_names(properties[key]) for key, name in _REGISTERED.items() if key in properties}
        for size in ("cpu", "memory"):
            if size in given:
                given[size] = str(given[size])
        containers = api_names(properties.get("ContainerDefinitions", []))
        family = properties.get("Family") or resource_name
        return ecs_backends[account_id][region_name].register_task_definition(family, containers, **given)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,  # noqa: ARG003 - moto passes it
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        """Every change is a replacement: a new revision, of the same family unless the template names another."""
        family = original_resource.family
        made = cls.create_from_cloudformation_json(family, cloudformation_json, account_id, region_name)
        ecs_backends[account_id][region_name].deregister_task_definition(original_resource.arn)
        return made

    @classmethod
    def delete_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],  # noqa: ARG003 - moto passes it
        account_id: str,
        region_name: str,
    ) -> None:
        """Deregister the task definition."""
        ecs_backends[account_id][region_name].deregister_task_definition(resource_name)


class ServiceResource(Declared, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::ECS::Service."""

    __module__ = "moto.ecs.models"

    TYPE = "AWS::ECS::Service"
    NAMED_BY = "ServiceName"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Any:
        """Make the service; its tasks start."""
        request = cls._request(cloudformation_json) | {"serviceName": resource_name}
        return ecs_backends[account_id][region_name].open_service(request)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Any,
        new_resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
    ) -> Any:
        """Change the service; a new name makes a new one."""
        backend = ecs_backends[account_id][region_name]
        # moto makes a new name at each update when the template gives none.
        named = cloudformation_json["Properties"].get("ServiceName", original_resource.name)
        if named != original_resource.name:
            backend.delete_service(original_resource.cluster_name, original_resource.name, force=True)
            return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)
        return backend.change_service(cls._request(cloudformation_json) | {"service": named})

    @classmethod
    def delete_from_cloudformation_json(
        cls,
        resource_name: str,
        cloudformation_json: Mapping[str, Any],  # noqa: ARG003 - moto passes it
        account_id: str,
        region_name: str,
    ) -> None:
        """Delete the service, named by its ARN; its tasks stop."""
        cluster, name = resource_name.split("/")[-2:]
        ecs_backends[account_id][region_name].delete_service(cluster, name, force=True)

    @staticmethod
    def _request(cloudformation_json: Mapping[str, Any]) -> dict[str, Any]:
        """The API's request. References may have been put in as moto's objects."""
        request = api_names(cloudformation_json["Properties"])
        for name in ("cluster", "taskDefinition"):
            request[name] = getattr(request.get(name), "arn", request.get(name))
        return {"cluster": "default", **{name: value for name, value in request.items() if value is not None}}
