"""Job variables beyond prefect-aws's: what each adds to the definition, its flow container, and the RunTask request.

Unset variables add nothing, so a pool that doesn't use them gets the requests that prefect-aws sends. Where ECS
takes a value from either request, it goes into RunTask: then it also holds for a reused definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ecs_worker.job.configuration import JobConfiguration

# Lists of objects that patches pair by this key; any other list is replaced as a whole.
_PAIRED_BY = {
    "containerDefinitions": "name",
    "containerOverrides": "name",
    "environment": "name",
    "secrets": "name",
    "volumes": "name",
    "volumeConfigurations": "name",
    "tags": "key",
}


def patch(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` merged deeply over `below`; named objects in lists are paired by name, a null removes what was there."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = patch(old, value)
        elif isinstance(old, list) and isinstance(value, list) and key in _PAIRED_BY:
            merged[key] = _patch_list(old, value, _PAIRED_BY[key])
        else:
            merged[key] = value
    return merged


def _patch_list(below: list[Any], above: list[Any], key: str) -> list[Any]:
    merged = list(below)
    for item in above:
        same = [i for i, old in enumerate(merged) if isinstance(item, dict) and old.get(key) == item.get(key)]
        if same:
            merged[same[0]] = patch(merged[same[0]], item)
        else:
            merged.append(item)
    return merged


def add_to_definition(configuration: JobConfiguration, definition: dict[str, Any], container: dict[str, Any]) -> None:
    """Change `definition` and its flow `container` as the job's options say."""
    platform = {
        "cpuArchitecture": configuration.cpu_architecture,
        "operatingSystemFamily": configuration.operating_system_family,
    }
    _update(definition, "runtimePlatform", platform)
    _update(container, "linuxParameters", {"initProcessEnabled": configuration.linux_init})
    if configuration.gpu:
        others = [item for item in container.get("resourceRequirements") or [] if item.get("type") != "GPU"]
        container["resourceRequirements"] = [*others, {"type": "GPU", "value": str(configuration.gpu)}]
    if configuration.stop_timeout_seconds is not None:
        container["stopTimeout"] = configuration.stop_timeout_seconds
    if configuration.readonly_root_filesystem is not None:
        container["readonlyRootFilesystem"] = configuration.readonly_root_filesystem
    for volume in configuration.volumes:
        definition["volumes"] = _patch_list(list(definition.get("volumes") or []), [volume.definition()], "name")
        mount = volume.mount_point()
        others = [item for item in container.get("mountPoints") or [] if not _same_mount(item, mount)]
        container["mountPoints"] = [*others, mount]
    if configuration.subnets or configuration.security_groups:
        # Only this mode has subnets; the mode that the definition names is left for the rules to judge.
        definition["networkMode"] = definition.get("networkMode") or "awsvpc"


def _same_mount(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("sourceVolume", "containerPath"))


def add_to_run_task(configuration: JobConfiguration, request: dict[str, Any]) -> None:
    """Change the RunTask `request` as the job's options say."""
    options = {
        "platformVersion": configuration.platform_version,
        "propagateTags": configuration.propagate_tags,
        "enableExecuteCommand": configuration.enable_execute_command,
        "group": configuration.group,
        "placementConstraints": configuration.placement_constraints,
        "placementStrategy": configuration.placement_strategy,
        "volumeConfigurations": [item for volume in configuration.volumes for item in volume.at_launch()],
    }
    request |= {key: value for key, value in options.items() if value or value is False}


def add_to_overrides(configuration: JobConfiguration, overrides: dict[str, Any], flow: dict[str, Any]) -> None:
    """Change RunTask's `overrides` and the `flow` container's among them as the job's options say."""
    if configuration.ephemeral_storage_gib:
        overrides["ephemeralStorage"] = {"sizeInGiB": configuration.ephemeral_storage_gib}
    if configuration.environment_files:
        given = list(flow.get("environmentFiles") or [])
        flow["environmentFiles"] = [*given, *environment_files(configuration.environment_files)]


def environment_files(arns: Iterable[str]) -> list[dict[str, str]]:
    """ECS's form of environment files; on conflict the first wins."""
    return [{"value": arn, "type": "s3"} for arn in arns]


def network_variable(configuration: JobConfiguration) -> dict[str, Any]:
    """The variable network_configuration; RunTask's wrapping of it is tolerated."""
    network = configuration.network_configuration
    return dict((network["awsvpcConfiguration"] or {}) if "awsvpcConfiguration" in network else network)


def given_network(configuration: JobConfiguration) -> dict[str, Any]:
    """The job variables' awsvpcConfiguration."""
    given = network_variable(configuration)
    if configuration.subnets:
        given["subnets"] = list(configuration.subnets)
    if configuration.security_groups:
        given["securityGroups"] = list(configuration.security_groups)
    if configuration.assign_public_ip is not None:
        given["assignPublicIp"] = "ENABLED" if configuration.assign_public_ip else "DISABLED"
    return given


def wanted_network(configuration: JobConfiguration) -> dict[str, Any]:
    """The task's awsvpcConfiguration as far as the job says it: the RunTask request below the job variables."""
    requested = configuration.task_run_request.get("networkConfiguration") or {}
    return {**(requested.get("awsvpcConfiguration") or {}), **given_network(configuration)}


def _update(target: dict[str, Any], key: str, values: Mapping[str, Any]) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        target[key] = {**(target.get(key) or {}), **given}
