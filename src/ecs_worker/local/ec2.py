"""EC2's networks as far as moto gets them wrong."""

from __future__ import annotations

from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.route_tables import Route
from moto.ec2.models.vpcs import VPCEndPoint

_default_vpc = EC2Backend.create_default_vpc
_endpoints_value = VPCEndPoint.get_filter_value


def _default_vpc_with_gateway(backend: Any) -> Any:
    """With an internet gateway, and a route to it (Amazon VPC user guide, "Default VPCs")."""
    vpc = _default_vpc(backend)
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (main,) = backend.describe_route_tables(filters={"vpc-id": [vpc.id], "association.main": ["true"]})
    backend.create_route(main.id, "0.0.0.0/0", gateway_id=gateway.id)
    return vpc


def _state(route: Any) -> str:
    """`blackhole`: what the route leads to is gone (EC2 API, Route)."""
    gateway, nat = route.gateway, route.nat_gateway
    detached = isinstance(gateway, InternetGateway) and gateway.vpc is None
    gone = nat is not None and nat.state != "available"
    return "blackhole" if detached or gone else "active"


def _of_endpoint(endpoint: Any, name: str, method_name: str | None = None) -> Any:
    """What an endpoint is filtered by."""
    own = {"vpc-id": endpoint.vpc_id, "service-name": endpoint.service_name, "vpc-endpoint-id": endpoint.id}
    return own[name] if name in own else _endpoints_value(endpoint, name, method_name)


def extend() -> None:
    """Make moto use these, before its first use of EC2."""
    EC2Backend.create_default_vpc = _default_vpc_with_gateway
    Route.state = property(_state)
    VPCEndPoint.get_filter_value = _of_endpoint
