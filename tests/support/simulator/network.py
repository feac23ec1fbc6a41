"""EC2's default VPC and STS, as far as a worker asks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from support.simulator.service import Ids, Place, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.simulator.clock import Clock
    from support.simulator.faults import Call

_SESSION_SECONDS = 3600


class Ec2:
    """The service in one Place: a default VPC with three subnets, unless `vpcs` and `subnets` are changed."""

    service = "ec2"

    def __init__(self, place: Place) -> None:
        self.vpcs: list[dict[str, Any]] = [
            {"VpcId": "vpc-0default", "State": "available", "CidrBlock": "172.31.0.0/16", "IsDefault": True}
        ]
        self.subnets: list[dict[str, Any]] = [
            {
                "SubnetId": f"subnet-0{zone}",
                "State": "available",
                "VpcId": "vpc-0default",
                "CidrBlock": f"172.31.{16 * number}.0/20",
                "AvailabilityZone": f"{place.region}{zone}",
                "AvailableIpAddressCount": 4091,
                "DefaultForAz": True,
                "MapPublicIpOnLaunch": True,
            }
            for number, zone in enumerate("abc")
        ]
        self.security_groups: list[dict[str, Any]] = [
            {"GroupId": "sg-0default", "GroupName": "default", "VpcId": "vpc-0default", "OwnerId": place.account}
        ]
        self.actions: dict[str, Callable[[dict[str, Any], Call], dict[str, Any]]] = {
            "DescribeSecurityGroups": lambda params, _: {
                "SecurityGroups": _chosen(self.security_groups, "GroupId", params, "InvalidGroup.NotFound")
            },
            "DescribeSubnets": lambda params, _: {
                "Subnets": _chosen(self.subnets, "SubnetId", params, "InvalidSubnetID.NotFound")
            },
            "DescribeVpcs": lambda params, _: {"Vpcs": _chosen(self.vpcs, "VpcId", params, "InvalidVpcID.NotFound")},
        }


class Sts:
    """The service in one Place. Assumed roles act in the account that the role's ARN names."""

    service = "sts"

    def __init__(self, place: Place, clock: Clock, ids: Ids, accounts: dict[str, str]) -> None:
        self.place = place
        self._clock = clock
        self._ids = ids
        self._accounts = accounts
        self.actions: dict[str, Callable[[dict[str, Any], Call], dict[str, Any]]] = {
            "AssumeRole": self._assume_role,
            "GetCallerIdentity": self._get_caller_identity,
        }

    def _get_caller_identity(self, _params: dict[str, Any], _: Call) -> dict[str, Any]:
        return {
            "UserId": "AIDASIMULATED",
            "Account": self.place.account,
            "Arn": f"arn:{self.place.partition}:iam::{self.place.account}:user/simulated",
        }

    def _assume_role(self, params: dict[str, Any], _: Call) -> dict[str, Any]:
        match = re.fullmatch(r"arn:[\w-]+:iam::(\d{12}):role/(?:.*/)?([\w+=,.@-]+)", params.get("RoleArn", ""))
        if match is None:
            raise ServiceError("ValidationError", f"{params.get('RoleArn')} is invalid")
        key = f"ASIA{self._ids.hex(16).upper()}"
        self._accounts[key] = match[1]
        expires = self._clock.now() + float(params.get("DurationSeconds", _SESSION_SECONDS))
        session = params.get("RoleSessionName", "")
        return {
            "Credentials": {
                "AccessKeyId": key,
                "SecretAccessKey": self._ids.hex(40),
                "SessionToken": self._ids.hex(64),
                "Expiration": expires,
            },
            "AssumedRoleUser": {
                "AssumedRoleId": f"AROASIMULATED:{session}",
                "Arn": f"arn:{self.place.partition}:sts::{match[1]}:assumed-role/{match[2]}/{session}",
            },
        }


def _chosen(items: list[dict[str, Any]], key: str, params: dict[str, Any], error: str) -> list[dict[str, Any]]:
    """By ids and filters, out of the query's flat parameters (`SubnetId.1`, `Filter.1.Name`, `Filter.1.Value.1`)."""
    ids = [value for name, value in params.items() if name.startswith(f"{key}.")]
    known = {item[key] for item in items}
    missing = [one for one in ids if one not in known]
    if missing:
        raise ServiceError(error, f"The ID '{missing[0]}' does not exist")
    found = [item for item in items if not ids or item[key] in ids]
    number = 1
    while name := params.get(f"Filter.{number}.Name"):
        values = {v for k, v in params.items() if k.startswith(f"Filter.{number}.Value.")}
        found = [item for item in found if _attribute(item, name) in values]
        number += 1
    return found


def _attribute(item: dict[str, Any], name: str) -> str:
    """`default-for-az` and `isDefault` are the same as `DefaultForAz` and `IsDefault`."""
    plain = name.replace("-", "").lower()
    for key, value in item.items():
        if key.lower() == plain:
            return str(value).lower() if isinstance(value, bool) else str(value)
    raise ServiceError("InvalidParameterValue", f"The filter '{name}' is invalid")
