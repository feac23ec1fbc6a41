"""A healthy set-up for `ecs-worker doctor`, in the embedded AWS and on a Prefect server, and looks at it.

Three deployments: `etl/nightly` in public subnets, `etl/hourly` in private ones on Spot and arm64, and `ml/train` in a
network that only endpoints lead out of.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ecs_worker.cli.jobs import Jobs
from ecs_worker.doctor.asking import Asking
from ecs_worker.doctor.examine import Examination, Patient
from ecs_worker.iam import rights
from ecs_worker.iam.jobs import OWN, PoolNeeds
from ecs_worker.iam.policy import document
from ecs_worker.iam.rights import ECS_TASKS, Scope
from ecs_worker.job.variables import default_base_job_template
from ecs_worker.prefect_api.client import PrefectClient
from ecs_worker.settings import JobDefaults, PrefectSettings
from support.command_line import ecs_worker
from support.images import push, push_index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ecs_worker.aws.session import Aws
    from ecs_worker.doctor.examine import Examined
    from ecs_worker.doctor.finding import Finding
    from ecs_worker.job.job import Job
    from support.command_line import Ended
    from support.embedded import Aws as Clients
    from support.servers.prefect import Admin
    from support.simulator.chaos_proxy import ChaosProxy

ACCOUNT, REGION = "123456789012", "us-east-1"
EVERYWHERE = "0.0.0.0/0"
SERVICES = ("ecr.api", "ecr.dkr", "logs", "secretsmanager")
INSIDE = "https://prefect.internal/api"


@dataclass
class Clinic:
    """`ids`: what the tests break, by short names. `api_url`: where whoever examines asks the API.

    `proxy` and `aws_proxy` stand between them and the servers; `heard` are the calls to AWS, with their bodies.
    """

    admin: Admin
    aws: Clients
    ours: Aws
    proxy: ChaosProxy
    aws_proxy: ChaosProxy
    api_url: str
    pool: str = field(default_factory=lambda: f"clinic-{uuid4().hex[:8]}")
    ids: dict[str, str] = field(default_factory=dict)
    deployments: dict[str, str] = field(default_factory=dict)
    heard: list[tuple[str, str]] = field(default_factory=list)

    @property
    def worker(self) -> str:
        return f"{self.pool}-worker"

    @property
    def starter(self) -> str:
        return f"{self.pool}-starter"

    @property
    def repository(self) -> str:
        return f"{self.pool}/flows"

    @property
    def registry(self) -> str:
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{self.repository}"

    def role(self, name: str) -> str:
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    async def look(self, patient: Patient | None = None, aws: Aws | None = None) -> list[Finding]:
        """What one whole examination finds."""
        return (await self.examined(patient, aws)).findings

    async def examined(
        self, patient: Patient | None = None, aws: Aws | None = None, *, seconds: float = 10
    ) -> Examined:
        """One whole examination, in this process."""
        settings = PrefectSettings(api_url=self.api_url, inherited={"PREFECT_API_URL": self.admin.server.url})
        async with PrefectClient(settings, patience_seconds=1) as api:
            jobs = Jobs(JobDefaults(), settings)
            examination = Examination(api, aws or self.ours, settings.shown_url, jobs.in_pool, Asking(seconds))
            return await examination.examine(patient or Patient(self.pool, role=self.worker))

    async def job(self, name: str) -> Job:
        """The deployment's job, as doctor makes it."""
        (facts,) = (await self.examined(Patient(None, name, self.worker))).jobs
        assert facts.job is not None, facts.problems
        return facts.job

    async def command(self, home: Path, *options: str, api_url: str | None = None) -> Ended:
        """`ecs-worker doctor OPTIONS…`."""
        given = {
            "AWS_ENDPOINT_URL": self.aws_proxy.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
        return await ecs_worker(home, "doctor", *options, api_url=api_url or self.admin.server.url, env=given)

    # -- what the tests break, and mend

    @asynccontextmanager
    async def deployed(self, name: str, **variables: Any) -> AsyncIterator[None]:
        """The deployment with other job variables for a while; None takes one out."""
        path = f"/deployments/{self.deployments[name]}"
        before = (await self.admin.get(path))["job_variables"]
        changed = {key: value for key, value in {**before, **variables}.items() if value is not None}
        await self.admin.call("PATCH", path, json={"job_variables": changed})
        try:
            yield
        finally:
            await self.admin.call("PATCH", path, json={"job_variables": before})

    def with_pool(self, **changes: Any) -> AbstractAsyncContextManager[None]:
        """The work pool with other fields for a while."""
        return self._with(f"/work_pools/{self.pool}", changes)

    def with_queue(self, **changes: Any) -> AbstractAsyncContextManager[None]:
        """The default work queue with other fields for a while."""
        return self._with(f"/work_pools/{self.pool}/queues/default", changes)

    @asynccontextmanager
    async def _with(self, path: str, changes: dict[str, Any]) -> AsyncIterator[None]:
        found = await self.admin.get(path)
        await self.admin.call("PATCH", path, json=changes)
        try:
            yield
        finally:
            await self.admin.call("PATCH", path, json={key: found[key] for key in changes})

    @asynccontextmanager
    async def allowed(self, role: str, policy: dict[str, Any]) -> AsyncIterator[None]:
        """The role with that policy in place of its own for a while."""
        before = (await self.aws.iam.get_role_policy(RoleName=role, PolicyName="all"))["PolicyDocument"]
        await self._allow(role, policy)
        try:
            yield
        finally:
            await self._allow(role, before)

    async def policy(self, role: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.aws.iam.get_role_policy(RoleName=role, PolicyName="all"))["PolicyDocument"]
        return found

    @asynccontextmanager
    async def trusting(self, role: str, policy: dict[str, Any]) -> AsyncIterator[None]:
        """The role with that trust policy for a while."""
        await self.aws.iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(policy))
        try:
            yield
        finally:
            own = json.dumps(rights.trust(ECS_TASKS, ACCOUNT))
            await self.aws.iam.update_assume_role_policy(RoleName=role, PolicyDocument=own)

    async def _allow(self, role: str, policy: dict[str, Any]) -> None:
        await self.aws.iam.put_role_policy(RoleName=role, PolicyName="all", PolicyDocument=json.dumps(policy))


async def opened(clinic: Clinic) -> None:
    """Make the set-up, all of it healthy."""
    admin, aws = clinic.admin, clinic.aws
    await aws.ecs.create_cluster(clusterName=clinic.pool, capacityProviders=["FARGATE", "FARGATE_SPOT"])
    await _network(clinic)
    await aws.ecr.create_repository(repositoryName=clinic.repository)
    await push_index(aws.ecr, clinic.repository, "both", "amd64", "arm64")
    await push(aws.ecr, clinic.repository, "amd64")
    secret = await aws.secretsmanager.create_secret(Name=f"{clinic.pool}-key", SecretString="a-secret")
    clinic.ids["secret"] = secret["ARN"]
    for role in (clinic.worker, clinic.starter, f"{clinic.pool}-task"):
        policy = json.dumps(rights.trust(ECS_TASKS, ACCOUNT))
        await aws.iam.create_role(RoleName=role, AssumeRolePolicyDocument=policy)
    await admin.create_pool(clinic.pool, base_job_template=default_base_job_template())
    for name, variables in _jobs(clinic).items():
        flow, _, deployment = name.partition("/")
        clinic.deployments[name] = await admin.create_deployment(
            clinic.pool, name=deployment, flow_id=await admin.create_flow(flow), job_variables=variables
        )
    await _rights(clinic)


def _jobs(clinic: Clinic) -> dict[str, dict[str, Any]]:
    ids = clinic.ids
    common = {
        "cluster": clinic.pool,
        "image": f"{clinic.registry}:amd64",
        "execution_role_arn": clinic.role(clinic.starter),
        "task_role_arn": clinic.role(f"{clinic.pool}-task"),
        "configure_cloudwatch_logs": True,
    }
    public = {"subnets": [ids["public"]], "security_groups": [ids["group"]], "assign_public_ip": True}
    private = {"subnets": [ids["private"]], "security_groups": [ids["group"]], "assign_public_ip": False}
    ends = {"subnets": [ids["closed"]], "assign_public_ip": False, "env": {"PREFECT_API_URL": INSIDE}}
    secret = {"secrets": {"TOKEN": ids["secret"]}}
    arm = {"image": f"{clinic.registry}:both", "cpu_architecture": "ARM64", "launch_type": "FARGATE_SPOT"}
    return {"etl/nightly": common | public, "etl/hourly": common | private | arm, "ml/train": common | ends | secret}


async def _network(clinic: Clinic) -> None:
    """One VPC with a public and a private subnet, another with endpoints only."""
    ec2, ids = clinic.aws.ec2, clinic.ids
    ids["vpc"] = (await ec2.create_vpc(CidrBlock="10.7.0.0/16"))["Vpc"]["VpcId"]
    ids["closed-vpc"] = (await ec2.create_vpc(CidrBlock="10.8.0.0/16"))["Vpc"]["VpcId"]
    for name, vpc, block in (
        ("public", "vpc", "10.7.1.0/24"),
        ("private", "vpc", "10.7.2.0/24"),
        ("closed", "closed-vpc", "10.8.1.0/24"),
    ):
        ids[name] = (await ec2.create_subnet(VpcId=ids[vpc], CidrBlock=block))["Subnet"]["SubnetId"]
        ids[f"{name}-table"] = (await ec2.create_route_table(VpcId=ids[vpc]))["RouteTable"]["RouteTableId"]
        await ec2.associate_route_table(RouteTableId=ids[f"{name}-table"], SubnetId=ids[name])
    ids["igw"] = (await ec2.create_internet_gateway())["InternetGateway"]["InternetGatewayId"]
    await ec2.attach_internet_gateway(InternetGatewayId=ids["igw"], VpcId=ids["vpc"])
    address = (await ec2.allocate_address(Domain="vpc"))["AllocationId"]
    nat = await ec2.create_nat_gateway(SubnetId=ids["public"], AllocationId=address)
    ids["nat"] = nat["NatGateway"]["NatGatewayId"]
    await ec2.create_route(RouteTableId=ids["public-table"], DestinationCidrBlock=EVERYWHERE, GatewayId=ids["igw"])
    await ec2.create_route(RouteTableId=ids["private-table"], DestinationCidrBlock=EVERYWHERE, NatGatewayId=ids["nat"])
    made = await ec2.create_security_group(GroupName="flows", Description="flows", VpcId=ids["vpc"])
    ids["group"] = made["GroupId"]
    for service in SERVICES:
        await endpoint(clinic, service)
    await endpoint(clinic, "s3")


async def endpoint(clinic: Clinic, service: str) -> None:
    """The closed VPC's endpoint of a service."""
    kind: dict[str, Any] = {"RouteTableIds": [clinic.ids["closed-table"]], "VpcEndpointType": "Gateway"}
    if service != "s3":
        kind = {"VpcEndpointType": "Interface", "SubnetIds": [clinic.ids["closed"]], "PrivateDnsEnabled": True}
    made = await clinic.aws.ec2.create_vpc_endpoint(
        VpcId=clinic.ids["closed-vpc"], ServiceName=f"com.amazonaws.{REGION}.{service}", **kind
    )
    clinic.ids[service] = made["VpcEndpoint"]["VpcEndpointId"]


async def _rights(clinic: Clinic) -> None:
    """The least rights, as `ecs-worker iam policy` tells them: so the two hold each other."""
    settings = PrefectSettings(api_url=clinic.admin.server.url)
    needs = PoolNeeds()
    async with PrefectClient(settings) as api:
        examination = Examination(api, clinic.ours, "", Jobs(JobDefaults(), settings).in_pool)
        for facts in (await examination.examine(Patient(clinic.pool))).jobs:
            assert facts.job is not None, facts.problems
            needs.add(facts.name, facts.job, Scope("aws", REGION, ACCOUNT))
    await clinic._allow(clinic.worker, document(rights.worker(needs.launchers[OWN])))  # noqa: SLF001 - its own module
    (execution,) = needs.executions.values()
    await clinic._allow(clinic.starter, document(rights.execution(execution)))  # noqa: SLF001 - likewise
