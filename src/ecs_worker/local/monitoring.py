"""Alarms, metric filters and queue policies in CloudFormation templates; moto makes them by their own APIs only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from moto.cloudwatch.models import Dimension, Metric, MetricDataQuery, MetricStat, cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.logs.models import logs_backends
from moto.sqs.models import sqs_backends

from ecs_worker.local.cloudformation import Declared, api_names

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Put(Declared):
    """What is made, and changed, by one call that says all."""

    def __init__(self, name: str) -> None:
        self.physical_resource_id = name

    def is_created(self) -> bool:
        """At once."""
        return True

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        """Whether Fn::GetAtt knows the attribute."""
        return attr == "Arn"

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Mapping[str, Any], account_id: str, region_name: str, **_: Any
    ) -> Self:
        """Make it."""
        cls.put(resource_name, cloudformation_json["Properties"], account_id, region_name)
        return cls(resource_name)

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Self,
        new_resource_name: str,  # noqa: ARG003 - moto makes a new one each time
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
    ) -> Self:
        """Change it."""
        cls.put(original_resource.physical_resource_id, cloudformation_json["Properties"], account_id, region_name)
        return original_resource

    @classmethod
    def delete_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Mapping[str, Any], account_id: str, region_name: str
    ) -> None:
        """Delete it."""
        cls.drop(resource_name, cloudformation_json["Properties"], account_id, region_name)

    @staticmethod
    def put(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """The call that makes and changes it."""
        raise NotImplementedError

    @staticmethod
    def drop(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """The call that deletes it."""
        raise NotImplementedError


class AlarmResource(_Put, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::CloudWatch::Alarm."""

    TYPE = "AWS::CloudWatch::Alarm"
    NAMED_BY = "AlarmName"

    @staticmethod
    def put(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """PutMetricAlarm."""
        cloudwatch_backends[account_id][region].put_metric_alarm(
            name=name,
            namespace=given.get("Namespace"),
            metric_name=given.get("MetricName"),
            metric_data_queries=[_query(each) for each in given.get("Metrics") or ()] or None,
            comparison_operator=given["ComparisonOperator"],
            evaluation_periods=given["EvaluationPeriods"],
            datapoints_to_alarm=given.get("DatapointsToAlarm"),
            period=given.get("Period"),
            threshold=float(given["Threshold"]),
            statistic=given.get("Statistic"),
            description=given.get("AlarmDescription"),
            dimensions=list(given.get("Dimensions") or ()),
            alarm_actions=given.get("AlarmActions") or [],
            ok_actions=given.get("OKActions") or [],
            treat_missing_data=given.get("TreatMissingData"),
        )

    @staticmethod
    def drop(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:  # noqa: ARG004 - as the others
        """DeleteAlarms."""
        cloudwatch_backends[account_id][region].delete_alarms([name])


def _query(given: Mapping[str, Any]) -> MetricDataQuery:
    stat = given.get("MetricStat")
    measured = None
    if stat:
        metric = stat["Metric"]
        dimensions = [Dimension(each["Name"], each["Value"]) for each in metric.get("Dimensions") or ()]
        measured = MetricStat(
            metric=Metric(metric_name=metric["MetricName"], namespace=metric["Namespace"], dimensions=dimensions),
            period=stat["Period"],
            stat=stat["Stat"],
            unit=stat.get("Unit"),
        )
    return MetricDataQuery(
        query_id=given["Id"],
        label=given.get("Label"),
        period=given.get("Period"),
        return_data=given.get("ReturnData"),
        expression=given.get("Expression"),
        metric_stat=measured,
    )


class MetricFilterResource(_Put, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::Logs::MetricFilter."""

    TYPE = "AWS::Logs::MetricFilter"
    NAMED_BY = "FilterName"

    @staticmethod
    def put(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """PutMetricFilter."""
        logs_backends[account_id][region].put_metric_filter(
            name, given["FilterPattern"], given["LogGroupName"], api_names(given["MetricTransformations"])
        )

    @staticmethod
    def drop(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """DeleteMetricFilter."""
        logs_backends[account_id][region].delete_metric_filter(name, given["LogGroupName"])


class QueuePolicyResource(_Put, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::SQS::QueuePolicy."""

    TYPE = "AWS::SQS::QueuePolicy"

    @staticmethod
    def put(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:  # noqa: ARG004 - as the others
        """SetQueueAttributes."""
        policy = json.dumps(given["PolicyDocument"], default=str)
        for url in given["Queues"]:
            sqs_backends[account_id][region].set_queue_attributes(url.rpartition("/")[2], {"Policy": policy})

    @staticmethod
    def drop(name: str, given: Mapping[str, Any], account_id: str, region: str) -> None:
        """It goes with its queue."""
