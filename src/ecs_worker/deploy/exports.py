"""The template for those who deploy by themselves: as JSON, and the queue of task events alone. Pure."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTENS = "Listens"
"""The condition of all that belongs to the queue of task events."""
LONGEST_BODY = 51_200
"""Bytes of a template that is given as it is, not on S3 (CloudFormation user guide, "CloudFormation quotas")."""

_NOTHING = {"Ref": "AWS::NoValue"}
_EVENTS = "State changes of the ECS tasks that ecs-worker launched, for ecs-worker"


def as_json(template: Mapping[str, Any]) -> str:
    """A template as JSON. CloudFormation counts the white space, too."""
    return json.dumps(template, indent=1, ensure_ascii=False, default=str)


def as_yaml(template: Mapping[str, Any]) -> str:
    """A template as YAML, with the functions in their long forms."""
    return yaml.dump(dict(template), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def events_only(template: Mapping[str, Any]) -> dict[str, Any]:
    """The template of the queue and rule alone: of the worker's, what belongs to its queue, without its condition.

    The queue may be given a name, and the rule one cluster.
    """
    made = {
        "AWSTemplateFormatVersion": template["AWSTemplateFormatVersion"],
        "Description": _EVENTS,
        "Parameters": {
            "ClusterArn": template["Parameters"]["ClusterArn"]
            | {"Description": "Only tasks of this cluster (empty for those of all clusters of the Region)"},
            "QueueName": {
                "Type": "String",
                "Default": "",
                "Description": "Name of the queue (empty for one that CloudFormation chooses)",
                "AllowedPattern": "[A-Za-z0-9_-]{0,80}",
                "ConstraintDescription": "must be the name of a queue",
            },
        },
        "Conditions": {
            f"Has{name}": {"Fn::Not": [{"Fn::Equals": [{"Ref": name}, ""]}]} for name in ("ClusterArn", "QueueName")
        },
    }
    for section in ("Resources", "Outputs"):
        made[section] = {
            name: {key: value for key, value in copy.deepcopy(each).items() if key != "Condition"}
            for name, each in template[section].items()
            if each.get("Condition") == LISTENS
        }
    resources: dict[str, Any] = made["Resources"]
    for described in resources.values():
        properties = described["Properties"]
        if described["Type"] == "AWS::SQS::Queue":
            properties["QueueName"] = _given("QueueName", {"Ref": "QueueName"})
        if described["Type"] == "AWS::Events::Rule":
            properties["EventPattern"]["detail"]["clusterArn"] = _given("ClusterArn", [{"Ref": "ClusterArn"}])
    return made


def _given(parameter: str, value: Any) -> dict[str, Any]:
    return {"Fn::If": [f"Has{parameter}", value, _NOTHING]}


class _Dumper(yaml.SafeDumper):
    """Writes equal parts out each time, and texts that YAML would read as something else in quotes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's
        """Whether no anchor is made."""
        return True
