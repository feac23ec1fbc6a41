"""The default VPC as each account has it: with an internet gateway, and a route to it. moto's has neither.

Source: Amazon VPC user guide, "Default VPCs".
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models import EC2Backend

_create = EC2Backend.create_default_vpc


def _create_with_gateway(backend: Any) -> Any:
    vpc = _create(backend)
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (main,) = backend.describe_route_tables(filters={"vpc-id": [vpc.id], "association.main": ["true"]})
    backend.create_route(main.id, "0.0.0.0/0", gateway_id=gateway.id)
    return vpc


def extend() -> None:
    """Make moto use it, before its first use of EC2."""
    EC2Backend.create_default_vpc = _create_with_gateway
