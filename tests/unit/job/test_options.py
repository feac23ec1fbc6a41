"""What job variables beyond prefect-aws's do to the requests."""

from __future__ import annotations

from typing import Any

import pytest

from support.jobs import ROLE, build, flow_override

OPTIONS: list[tuple[dict[str, Any], str, Any]] = [
    ({"cpu_architecture": "ARM64"}, "definition.runtimePlatform.cpuArchitecture", "ARM64"),
    ({"operating_system_family": "LINUX"}, "definition.runtimePlatform.operatingSystemFamily", "LINUX"),
    ({"stop_timeout_seconds": 0, "launch_type": "EC2"}, "container.stopTimeout", 0),
    ({"linux_init": True}, "container.linuxParameters.initProcessEnabled", True),
    ({"readonly_root_filesystem": True}, "container.readonlyRootFilesystem", True),
    ({"gpu": 2, "launch_type": "EC2"}, "container.resourceRequirements", [{"type": "GPU", "value": "2"}]),
    ({"ephemeral_storage_gib": 30}, "request.overrides.ephemeralStorage.sizeInGiB", 30),
    ({"platform_version": "1.4.0"}, "request.platformVersion", "1.4.0"),
    ({"propagate_tags": "TASK_DEFINITION"}, "request.propagateTags", "TASK_DEFINITION"),
    ({"enable_execute_command": True, "task_role_arn": ROLE}, "request.enableExecuteCommand", True),
    ({"group": "g"}, "request.group", "g"),
    (
        {"placement_strategy": [{"type": "spread", "field": "host"}], "launch_type": "EC2"},
        "request.placementStrategy",
        [{"type": "spread", "field": "host"}],
    ),
    (
        {"placement_constraints": [{"type": "distinctInstance"}], "launch_type": "EC2"},
        "request.placementConstraints",
        [{"type": "distinctInstance"}],
    ),
    (
        {"environment_files": ["arn:aws-cn:s3:::b/x.env"]},
        "override.environmentFiles",
        [{"value": "arn:aws-cn:s3:::b/x.env", "type": "s3"}],
    ),
    ({"cpu": "1 vcpu", "memory": "3 GB"}, "definition.memory", "3072"),
    ({"cpu": ".5 vCPU", "memory": "1gb"}, "override.memory", 1024),
    ({"cpu": "0.25 vcpu", "memory": 600, "round_up_resources": True}, "definition.memory", "1024"),
    ({"cpu": 300, "round_up_resources": True}, "request.overrides.cpu", "512"),
    ({"memory": 600, "round_up_resources": True}, "request.overrides.memory", "2048"),
    ({"task_definition_patch": {"pidMode": "task"}}, "definition.pidMode", "task"),
    ({"task_definition_patch": {"cpu": "2048", "memory": "4096"}}, "definition.cpu", "2048"),
    ({"container_patch": {"user": "me"}}, "container.user", "me"),
    ({"run_task_patch": {"referenceId": "r"}}, "request.referenceId", "r"),
    (
        {"run_task_patch": {"overrides": {"containerOverrides": [{"name": "prefect", "memoryReservation": 5}]}}},
        "override.memoryReservation",
        5,
    ),
]


@pytest.mark.parametrize(("variables", "path", "expected"), OPTIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_each_option_reaches_its_request(variables: dict[str, Any], path: str, expected: object) -> None:
    definition, request = build(variables)
    value: Any = {
        "definition": definition,
        "container": definition["containerDefinitions"][0],
        "request": request,
        "override": request["overrides"]["containerOverrides"][0],
    }
    for part in path.split("."):
        value = value[part]
    assert value == expected


def test_volumes_are_defined_mounted_and_made_at_launch() -> None:
    ebs = {"roleArn": ROLE, "sizeInGiB": 10}
    definition, request = build(
        {
            "volumes": [
                {
                    "name": "efs",
                    "mount_path": "/e",
                    "read_only": True,
                    "efsVolumeConfiguration": {"fileSystemId": "fs-1"},
                },
                {"name": "ebs", "mount_path": "/b", "managedEBSVolume": ebs},
            ]
        }
    )
    assert definition["volumes"] == [
        {"name": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}},
        {"name": "ebs", "configuredAtLaunch": True},
    ]
    assert definition["containerDefinitions"][0]["mountPoints"] == [
        {"sourceVolume": "efs", "containerPath": "/e", "readOnly": True},
        {"sourceVolume": "ebs", "containerPath": "/b", "readOnly": False},
    ]
    assert request["volumeConfigurations"] == [{"name": "ebs", "managedEBSVolume": ebs}]


def test_patches_pair_named_objects_and_null_removes() -> None:
    side = {"name": "side", "image": "s:1", "essential": False, "user": "u"}
    definition, _ = build(
        {"task_definition_patch": {"containerDefinitions": [{"name": "side", "image": "s:2", "user": None}]}},
        task_definition={"containerDefinitions": [{"name": "prefect", "image": "i"}, side]},
    )
    assert definition["containerDefinitions"] == [
        {"name": "prefect", "image": "i"},
        {"name": "side", "image": "s:2", "essential": False},
    ]


def test_null_in_a_patch_removes_a_variable() -> None:
    container = {"name": "prefect", "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    patched = {"overrides": {"containerOverrides": [{"name": "prefect", "environment": {"C": None}}]}}
    definition, request = build(
        {"container_patch": {"environment": {"A": None}}, "env": {"C": "3"}, "run_task_patch": patched},
        task_definition={"containerDefinitions": [container]},
    )
    assert definition["containerDefinitions"][0]["environment"] == [{"name": "B", "value": "2"}]
    assert "C" not in flow_override(request)["environment"]
