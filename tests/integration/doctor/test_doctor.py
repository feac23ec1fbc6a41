"""A healthy set-up is all green. Each thing that is broken in it is told by its own line alone, with its remedy.

The set-up is made once; what a test breaks it mends again.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

from ecs_worker.aws.session import Aws
from ecs_worker.doctor.examine import Patient
from ecs_worker.doctor.finding import Group, Result
from ecs_worker.iam import rights
from ecs_worker.iam.rights import ECS
from ecs_worker.job.variables import default_base_job_template
from support.clinic import ACCOUNT, EVERYWHERE, Clinic, endpoint
from support.images import push
from support.paths import TESTS
from support.servers.prefect import Admin
from support.simulator.faults import What, fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from support.servers.prefect import PrefectServer
    from support.simulator.chaos_proxy import ChaosProxy
    from support.simulator.faults import Fault

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("doctor")]  # one process, as the set-up is its own
Looked = dict[str, Any]
"""How to look at what is broken: the arguments of `Clinic.look`."""


@dataclass(frozen=True)
class Break:
    """`check` and `told` are parts of the line's; `remedy` of its remedy."""

    hurt: Callable[[Clinic], AbstractAsyncContextManager[Looked | None]]
    name: str
    group: Group
    check: str
    remedy: str
    told: str
    result: Result


BREAKS: list[Break] = []


def told_as(
    group: Group, check: str, remedy: str, *, told: str = "", result: Result = Result.FAILED
) -> Callable[[Callable[[Clinic], AsyncIterator[Looked | None]]], None]:
    """What the generator breaks until it goes on is told so."""

    def add(hurt: Callable[[Clinic], AsyncIterator[Looked | None]]) -> None:
        broken = asynccontextmanager(hurt)
        BREAKS.append(Break(broken, hurt.__name__, group, check, remedy, told, result))

    return add


@contextmanager
def faulty(proxy: ChaosProxy, rule: Fault) -> Iterator[None]:
    proxy.fault(rule)
    try:
        yield
    finally:
        proxy.director.remove(rule)


PREFECT, AWS, RIGHTS, NETWORK, IMAGE, JOB = (
    Group.PREFECT,
    Group.AWS,
    Group.RIGHTS,
    Group.NETWORK,
    Group.IMAGE,
    Group.JOB,
)
WARNING = Result.WARNING

# Prefect ------------------------------------------------------------------------------------------------------


@told_as(PREFECT, "reachable", "correct PREFECT_API_URL", told="no answer")
async def nobody_answers(clinic: Clinic) -> AsyncIterator[Looked | None]:
    before, clinic.api_url = clinic.api_url, "http://127.0.0.1:9/api"
    try:
        yield None
    finally:
        clinic.api_url = before


@told_as(PREFECT, "authenticated", "PREFECT_API_AUTH_STRING", told="401")
async def credentials_are_refused(clinic: Clinic) -> AsyncIterator[Looked | None]:
    with faulty(clinic.proxy, fault(What.SERVER_ERROR, action="GET /admin/version", status=401)):
        yield None


@told_as(PREFECT, "authenticated", "it ends in /api", told="404")
async def the_url_is_not_the_apis(clinic: Clinic) -> AsyncIterator[Looked | None]:
    with faulty(clinic.proxy, fault(What.SERVER_ERROR, action="GET /admin/version", status=404)):
        yield None


@told_as(PREFECT, "clock", "NTP", told="differ by 1")
async def clocks_differ_by_minutes(_: Clinic) -> AsyncIterator[Looked | None]:
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=3), tick=True):
        yield None


@told_as(PREFECT, "clock", "NTP", told="differ by", result=WARNING)
async def clocks_differ_by_seconds(_: Clinic) -> AsyncIterator[Looked | None]:
    with time_machine.travel(datetime.now(UTC) - timedelta(seconds=20), tick=True):
        yield None


@told_as(PREFECT, "work pool", "ecs-worker pool create nowhere")
async def there_is_no_pool(_: Clinic) -> AsyncIterator[Looked | None]:
    yield {"patient": Patient("nowhere")}


@told_as(PREFECT, "work pool", "Name a work pool of type 'ecs'", told="of type 'process'")
async def the_pool_is_of_another_type(clinic: Clinic) -> AsyncIterator[Looked | None]:
    name = await clinic.admin.create_pool(f"{clinic.pool}-process", type="process")
    try:
        yield {"patient": Patient(name)}
    finally:
        await clinic.admin.call("DELETE", f"/work_pools/{name}")


@told_as(PREFECT, "base job template", "ecs-worker pool update", result=WARNING)
async def the_template_is_old(clinic: Clinic) -> AsyncIterator[Looked | None]:
    prefect_aws = (TESTS / "unit" / "job" / "prefect_aws_0_7_template.json").read_text(encoding="utf-8")
    old, ours = json.loads(prefect_aws), default_base_job_template()
    for name in ("subnets", "security_groups", "assign_public_ip", "cpu_architecture", "secrets"):
        old["variables"]["properties"][name] = ours["variables"]["properties"][name]
        old["job_configuration"][name] = ours["job_configuration"][name]
    async with clinic.with_pool(base_job_template=old):
        yield None


@told_as(PREFECT, "paused", "prefect work-pool resume")
async def the_pool_is_paused(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.with_pool(is_paused=True):
        yield None


@told_as(PREFECT, "paused", "prefect work-queue resume default", told="default", result=WARNING)
async def a_queue_is_paused(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.with_queue(is_paused=True):
        yield None


@told_as(PREFECT, "paused", "prefect work-queue resume default", told="default")
async def the_deployments_queue_is_paused(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.with_queue(is_paused=True):
        yield {"patient": Patient(None, "etl/nightly", clinic.worker)}


@told_as(
    PREFECT, "concurrency limits", "Raise the concurrency limit of the work pool", told="none of its runs ever starts"
)
async def the_pools_limit_is_zero(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.with_pool(concurrency_limit=0):
        yield None


@asynccontextmanager
async def pending_run(clinic: Clinic) -> AsyncIterator[None]:
    run = await clinic.admin.create_run(clinic.deployments["etl/nightly"])
    await clinic.admin.set_state(run, "PENDING")
    try:
        yield
    finally:
        await clinic.admin.call("DELETE", f"/flow_runs/{run}")


@told_as(PREFECT, "concurrency limits", "raise the concurrency limit of the work pool", told="1 of 1", result=WARNING)
async def the_pool_is_full(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with pending_run(clinic), clinic.with_pool(concurrency_limit=1):
        yield None


@told_as(PREFECT, "concurrency limits", "limit of the work queue default", told="1 of 1", result=WARNING)
async def a_queue_is_full(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with pending_run(clinic), clinic.with_queue(concurrency_limit=1):
        yield None


@told_as(PREFECT, "event stream", "pass WebSockets on", told="found by polling", result=WARNING)
async def no_event_stream_gets_through(clinic: Clinic) -> AsyncIterator[Looked | None]:
    with faulty(clinic.proxy, fault(What.SERVER_ERROR, action="WS /events/out", status=403)):
        yield None


@told_as(PREFECT, "worker channel", "pass WebSockets on", told="use other calls", result=WARNING)
async def no_worker_channel_gets_through(clinic: Clinic) -> AsyncIterator[Looked | None]:
    with faulty(clinic.proxy, fault(What.SERVER_ERROR, action="WS /work_pools/*", status=503)):
        yield None


# AWS ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_environment(**variables: str | None) -> AsyncIterator[Looked]:
    """A worker that sees other variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            if value is None:
                patch.delenv(name)
            else:
                patch.setenv(name, value)
        async with Aws() as aws:
            yield {"aws": aws}


@told_as(AWS, "identity", "AWS_PROFILE", told="There are no AWS credentials")
async def there_are_no_credentials(_: Clinic) -> AsyncIterator[Looked | None]:
    async with with_environment(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None) as looked:
        yield looked


@told_as(AWS, "identity", "aws sts get-caller-identity", told="ExpiredToken")
async def the_credentials_have_expired(clinic: Clinic) -> AsyncIterator[Looked | None]:
    rule = fault(What.ERROR, containing="Action=GetCallerIdentity", code="ExpiredToken", message="It has expired.")
    with faulty(clinic.aws_proxy, rule):
        yield None


@told_as(AWS, "Region", "Correct AWS_REGION", told="nowhere-1")
async def the_region_is_none(_: Clinic) -> AsyncIterator[Looked | None]:
    async with with_environment(AWS_REGION="nowhere-1") as looked:
        yield looked


@told_as(AWS, "service-linked role", "create-service-linked-role")
async def ecs_has_no_role_of_its_own(clinic: Clinic) -> AsyncIterator[Looked | None]:
    await clinic.aws.iam.delete_service_linked_role(RoleName="AWSServiceRoleForECS")
    try:
        yield None
    finally:
        await clinic.aws.iam.create_service_linked_role(AWSServiceName=ECS)


@told_as(AWS, "cluster", "create-cluster", told="is INACTIVE")
async def the_cluster_is_deleted(clinic: Clinic) -> AsyncIterator[Looked | None]:
    await clinic.aws.ecs.delete_cluster(cluster=clinic.pool)
    try:
        yield None
    finally:
        await clinic.aws.ecs.create_cluster(clusterName=clinic.pool, capacityProviders=["FARGATE", "FARGATE_SPOT"])


@told_as(AWS, "capacity FARGATE_SPOT", "put-cluster-capacity-providers", told="no capacity provider FARGATE_SPOT")
async def the_cluster_has_no_spot(clinic: Clinic) -> AsyncIterator[Looked | None]:
    given: dict[str, Any] = {"cluster": clinic.pool, "defaultCapacityProviderStrategy": []}
    await clinic.aws.ecs.put_cluster_capacity_providers(**given, capacityProviders=["FARGATE"])
    try:
        yield None
    finally:
        await clinic.aws.ecs.put_cluster_capacity_providers(**given, capacityProviders=["FARGATE", "FARGATE_SPOT"])


@told_as(AWS, "capacity EC2", "set launch_type to FARGATE", told="none is registered")
async def there_are_no_instances(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/hourly", launch_type="EC2"):
        yield None


@told_as(AWS, "capacity the cluster's default", "set launch_type to FARGATE", told="no default strategy")
async def the_cluster_has_no_default_strategy(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/hourly", launch_type=None, run_task_patch={"launchType": None}):
        yield None


@told_as(AWS, "quota of Fargate On-Demand vCPUs", "Service Quotas", told="is to have 16")
async def a_task_is_larger_than_fargate_gives(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", cpu=16384, memory=32768):
        yield None


@told_as(AWS, "quota of Fargate On-Demand vCPUs", "Service Quotas", told="3 tasks of 2 vCPU", result=WARNING)
async def the_pools_limit_is_more_than_fargate_gives(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", cpu=2048, memory=4096), clinic.with_pool(concurrency_limit=5):
        yield None


# Rights -------------------------------------------------------------------------------------------------------


def without(policy: dict[str, Any], sid: str, **changes: Any) -> dict[str, Any]:
    """The policy without a statement, or with another one in its place."""
    kept = [each for each in policy["Statement"] if each["Sid"] != sid]
    (taken,) = [each for each in policy["Statement"] if each["Sid"] == sid]
    return {**policy, "Statement": [*kept, *([{**taken, **changes}] if changes else [])]}


@told_as(RIGHTS, "ecs:RunTask by", "ecs-worker iam policy worker", told="not allowed on arn:aws:ecs")
async def the_worker_may_not_run_tasks(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.worker, without(await clinic.policy(clinic.worker), "RunTasks")):
        yield None


@told_as(RIGHTS, "ecs:RunTask by", "ecs-worker iam policy worker", told="not allowed")
async def the_worker_may_run_tasks_in_another_cluster(clinic: Clinic) -> AsyncIterator[Looked | None]:
    elsewhere = {"ArnEquals": {"ecs:cluster": f"arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/other"}}
    policy = without(await clinic.policy(clinic.worker), "RunTasks", Condition=elsewhere)
    async with clinic.allowed(clinic.worker, policy):
        yield None


@told_as(RIGHTS, "iam:PassRole by", "ecs-worker iam policy worker", told="-task")
async def the_worker_may_not_pass_a_role(clinic: Clinic) -> AsyncIterator[Looked | None]:
    own = await clinic.policy(clinic.worker)
    policy = without(own, "GiveTasksTheirRoles", Resource=clinic.role(clinic.starter))
    async with clinic.allowed(clinic.worker, policy):
        yield None


@told_as(RIGHTS, "ecs:ListTasks by", "ecs-worker iam policy worker")
async def the_worker_may_not_find_its_tasks(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.worker, without(await clinic.policy(clinic.worker), "FindTasks")):
        yield None


@told_as(RIGHTS, "ecs:RegisterTaskDefinition by", "ecs-worker iam policy worker", told=":1")
async def the_worker_may_not_register(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.worker, without(await clinic.policy(clinic.worker), "RegisterTaskDefinitions")):
        yield None


@told_as(RIGHTS, "ecs:StopTask by", "Take the Deny out", told="a policy denies it")
async def a_policy_denies_stopping(clinic: Clinic) -> AsyncIterator[Looked | None]:
    own = await clinic.policy(clinic.worker)
    denial = {"Sid": "No", "Effect": "Deny", "Action": "ecs:Stop*", "Resource": "*"}
    async with clinic.allowed(clinic.worker, {**own, "Statement": [*own["Statement"], denial]}):
        yield None


@told_as(RIGHTS, "ecs:StopTask by", "see one run launched", told="aws:RequestTag/team", result=WARNING)
async def a_right_hangs_on_what_only_requests_have(clinic: Clinic) -> AsyncIterator[Looked | None]:
    own = await clinic.policy(clinic.worker)
    tagged = {"StringNotEquals": {"aws:RequestTag/team": "data"}}
    denial = {"Sid": "No", "Effect": "Deny", "Action": "ecs:Stop*", "Resource": "*", "Condition": tagged}
    async with clinic.allowed(clinic.worker, {**own, "Statement": [*own["Statement"], denial]}):
        yield None


@told_as(RIGHTS, "logs:GetLogEvents by", "Allow it there, too", told="its permissions boundary")
async def a_boundary_keeps_from_reading_logs(clinic: Clinic) -> AsyncIterator[Looked | None]:
    iam = clinic.aws.iam
    own = await clinic.policy(clinic.worker)
    statement = {"Effect": "Allow", "NotAction": "logs:Get*", "Resource": "*"}
    document = str({**own, "Statement": [statement]}).replace("'", '"')
    made = await iam.create_policy(PolicyName=f"{clinic.pool}-limit", PolicyDocument=document)
    await iam.put_role_permissions_boundary(RoleName=clinic.worker, PermissionsBoundary=made["Policy"]["Arn"])
    try:
        yield None
    finally:
        await iam.delete_role_permissions_boundary(RoleName=clinic.worker)
        await iam.delete_policy(PolicyArn=made["Policy"]["Arn"])


@told_as(RIGHTS, "worker ", "ecs-worker iam policy doctor", told="can't be told", result=WARNING)
async def nobody_may_ask_what_the_worker_may(clinic: Clinic) -> AsyncIterator[Looked | None]:
    action = f"Action=SimulatePrincipalPolicy&PolicySourceArn=arn%3Aaws%3Aiam%3A%3A{ACCOUNT}%3Arole%2F{clinic.worker}"
    rule = fault(What.ERROR, containing=action.partition("&")[2], code="AccessDenied", message="Not you.")
    with faulty(clinic.aws_proxy, rule):
        yield None


@told_as(RIGHTS, "worker", "Correct --worker-role", told="there is no role nobody", result=WARNING)
async def the_named_worker_role_is_none(clinic: Clinic) -> AsyncIterator[Looked | None]:
    yield {"patient": Patient(clinic.pool, role="nobody")}


@told_as(RIGHTS, "role nobody", "correct the job variable", told="no such role")
async def an_execution_role_is_missing(clinic: Clinic) -> AsyncIterator[Looked | None]:
    own = await clinic.policy(clinic.worker)
    policy = without(own, "GiveTasksTheirRoles", Resource="*")
    changed = clinic.deployed("etl/nightly", execution_role_arn=clinic.role("nobody"))
    async with clinic.allowed(clinic.worker, policy), changed:
        yield None


@told_as(RIGHTS, "-task", "iam/trust-policy.json", told="does not let ecs-tasks.amazonaws.com assume it")
async def a_role_trusts_another_service(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.trusting(f"{clinic.pool}-task", rights.trust("ec2.amazonaws.com")):
        yield None


@told_as(RIGHTS, "-starter", "iam/trust-policy.json", told="does not let")
async def a_role_trusts_another_account(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.trusting(clinic.starter, rights.trust("ecs-tasks.amazonaws.com", "999999999999")):
        yield None


@told_as(RIGHTS, "reads secrets", "ecs-worker iam policy execution", told="secretsmanager:GetSecretValue")
async def the_execution_role_may_not_read_a_secret(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.starter, without(await clinic.policy(clinic.starter), "ReadSecretsManager")):
        yield None


@told_as(RIGHTS, "creates log groups", "ecs-worker iam policy execution", told="logs:CreateLogGroup")
async def the_execution_role_may_not_make_log_groups(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.starter, without(await clinic.policy(clinic.starter), "MakeLogGroups")):
        yield None


@told_as(RIGHTS, "pulls images", "ecs-worker iam policy execution", told="ecr:BatchGetImage")
async def the_execution_role_may_not_pull(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.allowed(clinic.starter, without(await clinic.policy(clinic.starter), "PullImages")):
        yield None


# Network ------------------------------------------------------------------------------------------------------


@told_as(NETWORK, "subnets subnet-0", "Correct the job variables subnets", told="not there in us-east-1")
async def a_subnet_is_missing(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", subnets=["subnet-0"]):
        yield None


@told_as(NETWORK, "subnets", "ECS takes those of one", told="several VPCs")
async def subnets_are_in_several_vpcs(clinic: Clinic) -> AsyncIterator[Looked | None]:
    both = [clinic.ids["private"], clinic.ids["closed"]]
    group = {"security_groups": None}
    async with clinic.deployed("etl/hourly", subnets=both, **group):
        yield None


@told_as(NETWORK, "way out of", "Set assign_public_ip to true", told="gets no public address")
async def a_task_gets_no_public_address(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", assign_public_ip=False):
        yield None


@told_as(NETWORK, "way out of", "Route 0.0.0.0/0", told="no route to the internet")
async def a_subnet_has_no_route(clinic: Clinic) -> AsyncIterator[Looked | None]:
    route = {"RouteTableId": clinic.ids["private-table"], "DestinationCidrBlock": EVERYWHERE}
    await clinic.aws.ec2.delete_route(**route)
    try:
        yield None
    finally:
        await clinic.aws.ec2.create_route(**route, NatGatewayId=clinic.ids["nat"])


@told_as(NETWORK, "way out of", "Route 0.0.0.0/0", told="which is gone")
async def the_nat_gateway_is_deleted(clinic: Clinic) -> AsyncIterator[Looked | None]:
    ec2, ids = clinic.aws.ec2, clinic.ids
    await ec2.delete_nat_gateway(NatGatewayId=ids["nat"])
    try:
        yield None
    finally:
        address = (await ec2.allocate_address(Domain="vpc"))["AllocationId"]
        made = await ec2.create_nat_gateway(SubnetId=ids["public"], AllocationId=address)
        ids["nat"] = made["NatGateway"]["NatGatewayId"]
        route = {"RouteTableId": ids["private-table"], "DestinationCidrBlock": EVERYWHERE}
        await ec2.replace_route(**route, NatGatewayId=ids["nat"])


@told_as(NETWORK, "way out of", "Route 0.0.0.0/0", told="leads to no internet gateway")
async def the_nat_gateway_is_in_a_private_subnet(clinic: Clinic) -> AsyncIterator[Looked | None]:
    ec2, ids = clinic.aws.ec2, clinic.ids
    made = await ec2.create_nat_gateway(SubnetId=ids["private"], ConnectivityType="public")
    other = made["NatGateway"]["NatGatewayId"]
    route = {"RouteTableId": ids["private-table"], "DestinationCidrBlock": EVERYWHERE}
    await ec2.replace_route(**route, NatGatewayId=other)
    try:
        yield None
    finally:
        await ec2.replace_route(**route, NatGatewayId=ids["nat"])
        await ec2.delete_nat_gateway(NatGatewayId=other)


@told_as(NETWORK, "way out of", "Make these endpoints", told="no endpoint for secretsmanager")
async def an_endpoint_is_missing(clinic: Clinic) -> AsyncIterator[Looked | None]:
    await clinic.aws.ec2.delete_vpc_endpoints(VpcEndpointIds=[clinic.ids["secretsmanager"]])
    try:
        yield None
    finally:
        await endpoint(clinic, "secretsmanager")


@told_as(NETWORK, "way out of", "for s3 a gateway in rtb-", told="no endpoint for s3")
async def the_gateway_endpoint_is_in_another_table(clinic: Clinic) -> AsyncIterator[Looked | None]:
    ec2, ids = clinic.aws.ec2, clinic.ids
    changed = {"VpcEndpointId": ids["s3"]}
    await ec2.modify_vpc_endpoint(**changed, RemoveRouteTableIds=[ids["closed-table"]])
    try:
        yield None
    finally:
        await ec2.modify_vpc_endpoint(**changed, AddRouteTableIds=[ids["closed-table"]])


@told_as(NETWORK, "way out of", "Copy the image to ECR", told="no endpoint leads to docker.io")
async def an_image_is_beyond_the_endpoints(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("ml/train", image="prefecthq/prefect:3-latest"):
        yield None


@told_as(NETWORK, "security groups", "Correct the job variable security_groups", told="sg-0")
async def a_security_group_is_missing(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", security_groups=["sg-0"]):
        yield None


@told_as(NETWORK, "security groups", "authorize-security-group-egress", told="let nothing out to TCP port 443")
async def a_security_group_lets_nothing_out(clinic: Clinic) -> AsyncIterator[Looked | None]:
    made = await clinic.aws.ec2.create_security_group(GroupName="shut", Description="shut", VpcId=clinic.ids["vpc"])
    group = made["GroupId"]
    all_of_it = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": EVERYWHERE}]}]
    await clinic.aws.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=all_of_it)
    try:
        async with clinic.deployed("etl/nightly", security_groups=[group]):
            yield None
    finally:
        await clinic.aws.ec2.delete_security_group(GroupId=group)


@told_as(NETWORK, "security groups", "Make sure that this holds", told="only at 10.0.0.0/8", result=WARNING)
async def a_security_group_lets_out_to_some_only(clinic: Clinic) -> AsyncIterator[Looked | None]:
    ec2 = clinic.aws.ec2
    group = (await ec2.create_security_group(GroupName="some", Description="some", VpcId=clinic.ids["vpc"]))["GroupId"]
    for change, block in (
        (ec2.revoke_security_group_egress, EVERYWHERE),
        (ec2.authorize_security_group_egress, "10.0.0.0/8"),
    ):
        await change(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": block}]}])
    try:
        async with clinic.deployed("etl/nightly", security_groups=[group]):
            yield None
    finally:
        await ec2.delete_security_group(GroupId=group)


# Image --------------------------------------------------------------------------------------------------------


@told_as(IMAGE, "nowhere", "aws ecr create-repository --repository-name team/nowhere", told="no repository")
async def there_is_no_repository(clinic: Clinic) -> AsyncIterator[Looked | None]:
    image = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/team/nowhere:1"
    policy = without(await clinic.policy(clinic.starter), "PullImages", Resource="*")
    async with clinic.allowed(clinic.starter, policy), clinic.deployed("etl/nightly", image=image):
        yield None


@told_as(IMAGE, ":nothing", "Push it, or correct the job variable image", told="has no image nothing")
async def there_is_no_image(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", image=f"{clinic.registry}:nothing"):
        yield None


@told_as(IMAGE, "platform of", "set cpu_architecture to X86_64", told="but the task is for linux/arm64")
async def an_image_is_for_another_processor(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/hourly", image=f"{clinic.registry}:amd64"):
        yield None


@told_as(IMAGE, "size of", "Make it smaller", told="4096 MiB", result=WARNING)
async def an_image_is_large(clinic: Clinic) -> AsyncIterator[Looked | None]:
    await push(clinic.aws.ecr, clinic.repository, "large", size=4 * 1024**3)
    async with clinic.deployed("etl/nightly", image=f"{clinic.registry}:large"):
        yield None


# Job ----------------------------------------------------------------------------------------------------------


@told_as(JOB, "requests of etl/nightly", "ecs-worker render -d etl/nightly", told="is no pair that Fargate runs")
async def a_job_breaks_a_rule(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", cpu=256, memory=8192):
        yield None


@told_as(JOB, "requests of etl/nightly", "ecs-worker render", told="The block")
async def a_block_is_missing(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", image="{{ prefect.blocks.secret.not-there }}"):
        yield None


@told_as(JOB, "in vain in etl/nightly", "Leave it out, or correct it", told="imagee", result=WARNING)
async def a_job_variable_is_misspelt(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", imagee="flows:7"):
        yield None


@told_as(JOB, "Prefect's address", "Set PREFECT_API_URL", told="the container has none")
async def containers_are_told_no_address(clinic: Clinic) -> AsyncIterator[Looked | None]:
    async with clinic.deployed("etl/nightly", env={"PREFECT_API_URL": None}):
        yield None


# --------------------------------------------------------------------------------------------------------------


async def test_a_healthy_set_up_is_all_green(clinic: Clinic) -> None:
    findings = await clinic.look()
    assert {each.result for each in findings} == {Result.OK}, [each for each in findings if each.result != Result.OK]
    assert {each.group for each in findings} == {PREFECT, AWS, RIGHTS, NETWORK, IMAGE, JOB}
    assert len(findings) == len({(each.group, each.check, each.about) for each in findings}), "each check has one line"


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
async def test_what_is_broken_is_told_by_its_line_alone(clinic: Clinic, broken: Break) -> None:
    async with broken.hurt(clinic) as looked:
        findings = await clinic.look(**(looked or {}))
    bad = [each for each in findings if each.result in {Result.FAILED, Result.WARNING}]
    assert [(each.group, each.result) for each in bad] == [(broken.group, broken.result)], bad
    (found,) = bad
    assert broken.check in found.check
    assert broken.told in found.told
    assert broken.remedy in found.remedy


def test_there_are_enough_of_them() -> None:
    assert len(BREAKS) >= 50
    assert {each.group for each in BREAKS} == {PREFECT, AWS, RIGHTS, NETWORK, IMAGE, JOB}


async def test_what_aws_does_not_tell_about_one_network_keeps_no_other_from_being_judged(clinic: Clinic) -> None:
    rule = fault(What.ERROR, containing="Action=DescribeSubnets", code="UnauthorizedOperation", message="Not you.")
    by_vpc = {"subnets": None, "security_groups": None, "vpc_id": clinic.ids["vpc"]}
    with faulty(clinic.aws_proxy, rule):
        async with clinic.deployed("etl/nightly", **by_vpc):
            findings = await clinic.look()
    bad = {each.check: each for each in findings if each.result in {Result.FAILED, Result.WARNING}}
    lacking = [bad.pop(f"ec2:{action} by {clinic.worker}") for action in ("DescribeVpcs", "DescribeSubnets")]
    assert {each.result for each in lacking} == {Result.FAILED}, "a job without subnets takes more rights"
    assert {each.result for each in bad.values()} == {Result.WARNING}, "it is said, and not guessed"
    assert all("iam policy doctor" in each.remedy for each in bad.values()), bad
    assert bad["what AWS tells of jobs"].about == ("etl/nightly",)
    skipped = {each.check: each.about for each in findings if each.result is Result.SKIPPED}
    assert skipped["of jobs"] == ("etl/nightly",)
    assert {each.result for each in findings if each.check.startswith("requests of ")} == {Result.OK}


async def test_a_pool_without_deployments_is_judged_by_its_defaults(clinic: Clinic) -> None:
    name = await clinic.admin.create_pool(base_job_template=default_base_job_template())
    findings = await clinic.look(Patient(name, role=clinic.worker))
    (requests,) = [each for each in findings if each.check == "requests of the pool's defaults"]
    assert requests.result is Result.OK
    (image,) = [each for each in findings if each.group is IMAGE]
    assert image.result is Result.SKIPPED
    assert "prefecthq/prefect:3." in image.check


async def test_one_hanging_place_delays_no_other(clinic: Clinic) -> None:
    rule = fault(What.HANG_BEFORE, containing="Action=DescribeRouteTables")
    with faulty(clinic.aws_proxy, rule):
        findings = (await clinic.examined(seconds=0.5)).findings
    bad = [each for each in findings if each.result in {Result.FAILED, Result.WARNING}]
    assert {each.check.partition(" of ")[0] for each in bad} == {"way out"}
    assert all("no answer within 0.5 s" in each.told for each in bad)
    assert sum(each.result is Result.OK for each in findings) > 40


async def test_prefect_2_is_asked_in_its_own_way(prefect2: PrefectServer, clinic: Clinic, tmp_path: Path) -> None:
    async with Admin(prefect2) as admin:
        pool = await admin.create_pool(base_job_template=default_base_job_template())
        flow = await admin.create_flow("etl")
        await admin.create_deployment(pool, name="old", flow_id=flow, infra_overrides={"cluster": clinic.pool})
    ended = await clinic.command(tmp_path, "-p", pool, "--worker-role", clinic.worker, api_url=prefect2.url)
    lines = ended.out.splitlines()
    assert any(line.startswith("  ✓ ok       version: Prefect 2.20.") for line in lines), ended
    warned = [line for line in lines[: lines.index("AWS")] if "! warning" in line]
    assert [line.partition(":")[0].split()[-1] for line in warned] == ["stream", "channel"]
    assert all("→ Update the server to 3." in line for line in warned)
    assert f"  ✓ ok       cluster {clinic.pool}: ACTIVE in us-east-1 [etl/old]" in lines
