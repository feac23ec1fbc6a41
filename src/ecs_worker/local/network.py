"""A network's resources in CloudFormation templates: what moto leaves out of making them, and how they are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends

from ecs_worker.local.cloudformation import Declared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Association:
    """A subnet that a route table is for."""

    def __init__(self, association_id: str) -> None:
        self.physical_resource_id = association_id


class AssociationResource(Declared, CloudFormationModel):  # type: ignore[misc]  # moto has no types
    """AWS::EC2::SubnetRouteTableAssociation. moto's own changes no route table."""

    __module__ = "moto.ec2.models"  # moto derives the service from it

    TYPE = "AWS::EC2::SubnetRouteTableAssociation"

    @classmethod
    def create_from_cloudformation_json(
        cls,
        resource_name: str,  # noqa: ARG003 - moto passes it
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
        **_: Any,
    ) -> Association:
        """Give the subnet its route table."""
        given = cloudformation_json["Properties"]
        backend = ec2_backends[account_id][region_name]
        made = backend.associate_route_table(given["RouteTableId"], subnet_id=given["SubnetId"])
        return Association(str(made))

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: Association,
        new_resource_name: str,
        cloudformation_json: Mapping[str, Any],
        account_id: str,
        region_name: str,
    ) -> Association:
        """Every change is a replacement."""
        ec2_backends[account_id][region_name].disassociate_route_table(original_resource.physical_resource_id)
        return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)


def _delete_nat_gateway(ec2: Any, gateway_id: str, _: Mapping[str, Any]) -> None:
    gateway = ec2.delete_nat_gateway(gateway_id)
    for address in gateway.nat_gateway_addresses:
        ec2.delete_network_interface(address["networkInterfaceId"])


def _delete_endpoint(ec2: Any, endpoint_id: str, given: Mapping[str, Any]) -> None:
    if given.get("VpcEndpointType") == "Interface":
        ec2.delete_vpc_endpoints([endpoint_id])
        return
    endpoint = ec2.vpc_end_points[endpoint_id]  # moto looks for its routes under another name than it gave them
    for table_id in endpoint.route_table_ids:
        if endpoint.destination_prefix_list_id:
            ec2.delete_route(table_id, None, destination_prefix_list_id=endpoint.destination_prefix_list_id)
    endpoint.state = "deleted"


# How a resource of a type goes: its Region's EC2, its physical id, its properties. moto deletes few of them.
_DELETED: Mapping[str, Callable[[Any, str, Mapping[str, Any]], object]] = {
    "AWS::EC2::VPC": lambda ec2, vpc_id, _: ec2.delete_vpc(vpc_id),
    "AWS::EC2::Subnet": lambda ec2, subnet_id, _: ec2.delete_subnet(subnet_id),
    "AWS::EC2::RouteTable": lambda ec2, table_id, _: ec2.delete_route_table(table_id),
    "AWS::EC2::Route": lambda ec2, _, given: ec2.delete_route(given["RouteTableId"], given["DestinationCidrBlock"]),
    "AWS::EC2::SubnetRouteTableAssociation": lambda ec2, name, _: ec2.disassociate_route_table(name),
    "AWS::EC2::InternetGateway": lambda ec2, gateway_id, _: ec2.delete_internet_gateway(gateway_id),
    "AWS::EC2::VPCGatewayAttachment": lambda ec2, _, given: ec2.detach_internet_gateway(
        given["InternetGatewayId"], given["VpcId"]
    ),
    "AWS::EC2::NatGateway": _delete_nat_gateway,
    "AWS::EC2::EIP": lambda ec2, address, _: ec2.release_address(address),
    "AWS::EC2::VPCEndpoint": _delete_endpoint,
}


def delete(resource: Any, described: Mapping[str, Any], account_id: str, region: str) -> bool:
    """Delete a resource of a network. False: it is none."""
    act = _DELETED.get(described["Type"])
    if act is not None:
        act(ec2_backends[account_id][region], resource.physical_resource_id, described.get("Properties", {}))
    return act is not None
