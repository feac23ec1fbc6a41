"""EC2's routes and endpoints as far as moto gets them wrong."""

from __future__ import annotations

from typing import Any

from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.route_tables import Route
from moto.ec2.models.vpcs import VPCEndPoint


def _state(route: Any) -> str:
    """`blackhole`: what the route leads to is gone (EC2 API, Route)."""
    gateway, nat = route.gateway, route.nat_gateway
    detached = isinstance(gateway, InternetGateway) and gateway.vpc is None
    gone = nat is not None and nat.state != "available"
    return "blackhole" if detached or gone else "active"


_endpoints_value = VPCEndPoint.get_filter_value


def _of_endpoint(endpoint: Any, name: str, method_name: str | None = None) -> Any:
    """What an endpoint is filtered by."""
    own = {"vpc-id": endpoint.vpc_id, "service-name": endpoint.service_name, "vpc-endpoint-id": endpoint.id}
    return own[name] if name in own else _endpoints_value(endpoint, name, method_name)


def extend() -> None:
    """Make moto use these."""
    Route.state = property(_state)
    VPCEndPoint.get_filter_value = _of_endpoint
