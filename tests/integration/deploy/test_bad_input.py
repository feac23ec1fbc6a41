"""What `ecs-worker deploy` is given that can't work: one clear sentence with the remedy, and nothing half made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import stacks
from support.builders import quick_template
from support.deploying import Command
from support.embedded import Aws, connected, fresh
from support.servers.prefect import free_port
from support.simulator.chaos_proxy import ChaosProxy
from support.simulator.faults import What, fault

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers.prefect import Admin

pytestmark = pytest.mark.anyio
ACCOUNT = "123456789012"
SECRET = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:nothing-here-AbCdEf"
ELSEWHERE = f"arn:aws:ecs:eu-west-1:{ACCOUNT}:cluster/default"


@pytest.fixture
async def command(admin3: Admin, aws: Aws, tmp_path: Path) -> Command:
    await aws.ecs.create_cluster(clusterName="without-spot", capacityProviders=["FARGATE"])
    return Command(admin3, aws, tmp_path, await admin3.create_pool(base_job_template=quick_template()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cluster", "no-such"], ["--cluster is 'no-such'", "us-east-1", "--new-cluster"]),
        (["--cluster", ELSEWHERE], ["eu-west-1", "--region eu-west-1"]),
        (["--cluster", "default", "--new-cluster"], ["exclude each other"]),
        (["--cluster", "without-spot", "--capacity", "spot"], ["FARGATE_SPOT", "put-cluster-capacity-providers"]),
        (["--vpc-id", "vpc-0123"], ["--vpc-id is 'vpc-0123'", "correct it"]),
        (["--subnets", "subnet-0123"], ["--subnets names subnet-0123", "correct it, or --region"]),
        (["--security-group", "sg-0123"], ["--security-group is 'sg-0123'", "doesn't have"]),
        (["--security-group", "all"], ["--security-group is 'all'", "must be the id of a security group"]),
        (["--prefect-api-key-secret-arn", SECRET], ["no such secret", "--prefect-api-key"]),
        (["--prefect-api-key-secret-arn", "key"], ["must be the ARN of a secret"]),
        (["--prefect-api-key", "pnu_1", "--prefect-api-key-secret-arn", SECRET], ["exclude each other"]),
        (["--prefect-api-key", ""], ["--prefect-api-key is empty"]),
        (["--prefect-api-url", "prefect.example.com"], ["--prefect-api-url is", "http:// or https://"]),
        (["--prefect-api-url", "https://me:secret@prefect.example.com/api"], ["password", "--prefect-auth-string"]),
        (["--capacity", "ec2"], ["--capacity is 'ec2'", "fargate, spot"]),
        (["--cpu", "300"], ["--cpu is '300'", "256, 512"]),
        (["--cpu", "256", "--memory", "8192"], ["Fargate runs no task", "512 to 2048 MiB"]),
        (["--desired-count", "many"], ["--desired-count is 'many'", "a number"]),
        (["--log-retention-days", "31"], ["--log-retention-days is '31'", "30, 60"]),
        (["--alarms", "somebody"], ["--alarms is 'somebody'", "ARN of an SNS topic"]),
        (["--alarms", f"arn:aws:sns:eu-west-1:{ACCOUNT}:x"], ["--alarms is in the Region eu-west-1"]),
        (["--option", "limits=3"], ["--option limits", "no such option", "Did you mean limit?"]),
        (["--option", "limit=0"], ["--limit is '0'", "greater than or equal to 1"]),
        (["--option", "limit"], ["--option limit has no value", "--option limit=VALUE"]),
        (["--option", "work-queue=a"], ["--option work-queue", "give --work-queues in its place"]),
        (["--option", "run-once=yes"], ["--option run-once", "leave it out"]),
        (["--option", "heartbeat-seconds=3"], ["--option heartbeat-seconds", "no such option"]),
        (["--profile", "nobody"], ["nobody", "profile"]),
        (["--region", "Ireland"], ["Ireland", "Region"]),
    ],
    ids=lambda value: " ".join(value[:4]) if value and value[0].startswith("--") else "",
)
async def test_an_option_that_cannot_work_is_told_before_anything_is_made(
    command: Command, options: list[str], told: list[str]
) -> None:
    await command.refused(await command.new(*options), *told)


async def test_a_new_stack_needs_an_image_and_somebody_to_agree(command: Command) -> None:
    await command.refused(await command("--pool", command.pool, "--yes"), "--image is missing", "push it to a registry")
    unasked = await command("--pool", command.pool, "--image", stacks.IMAGE, PREFECT_API_KEY="pnu_1")
    await command.refused(unasked, "There is nobody to ask", "--yes", "--dry-run")
    await command.refused(await command("--yes"), "--pool is missing")
    before = await command("--pool", command.pool, "upgrade", "--yes")
    await command.refused(before, "Options go after the command: ecs-worker deploy upgrade")


async def test_without_credentials_or_region_nothing_is_begun(command: Command) -> None:
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    await command.refused(await command.new(**nothing), "There are no AWS credentials", "AWS_PROFILE")
    await command.refused(await command.new(AWS_DEFAULT_REGION=""), "There is no AWS Region", "AWS_REGION")


async def test_a_prefect_that_does_not_answer_or_has_another_kind_of_pool(command: Command) -> None:
    gone = f"http://127.0.0.1:{free_port()}/api"
    await command.refused(await command.new(api_url=gone), f"The Prefect API at {gone}")
    other = await command.admin.create_pool(type="process")
    ended = await command("--pool", other, "--image", stacks.IMAGE, "--yes")
    await command.refused(ended, f"The work pool {other!r} is of type 'process', not 'ecs'")


async def test_an_aws_that_does_not_answer_or_denies_is_told_by_what_is_lacking(command: Command) -> None:
    silent = await command.new(aws_url=f"http://127.0.0.1:{free_port()}", AWS_MAX_ATTEMPTS="1")
    await command.refused(silent, "AWS doesn't answer in the Region us-east-1", "--region")
    denied = f"User: arn:aws:iam::{ACCOUNT}:user/me is not authorized to perform: cloudformation:CreateChangeSet"
    async with ChaosProxy(command.aws.url, api_path="") as proxy:
        rule = fault(What.ERROR, containing="Action=CreateChangeSet", code="AccessDenied", message=denied, status=403)
        proxy.fault(rule)
        ended = await command.new(aws_url=proxy.url, PREFECT_API_KEY="pnu_1")
    await command.refused(ended, "AWS denies cloudformation:CreateChangeSet", "`ecs-worker iam policy deployer`")


async def test_an_aws_that_does_not_answer_for_a_moment_ends_nothing(command: Command) -> None:
    async with ChaosProxy(command.aws.url, api_path="") as proxy:
        first = fault(What.SERVER_ERROR, containing="Action=DescribeStackEvents", nth=(2, 3))
        proxy.fault(first)
        ended = await command.new(aws_url=proxy.url, AWS_MAX_ATTEMPTS="1")
        assert [call.outcome for call in proxy.calls].count("503") == 2
    assert ended.code == 0, ended
    assert ended.out.count(" CREATE_COMPLETE              Service\n") == 1, "each event is told once"
    assert "is deployed, but none runs (--desired-count 0)" in ended.out
    await command.well("delete", command.stack, "--all", "--yes")


async def test_an_aws_that_denies_meanwhile_goes_on_without_us(command: Command) -> None:
    async with ChaosProxy(command.aws.url, api_path="") as proxy:
        told = {"code": "AccessDenied", "message": "not authorized to perform: cloudformation:DescribeStackEvents"}
        proxy.fault(fault(What.ERROR, containing="Action=DescribeStackEvents", nth=(2,), status=403, **told))
        ended = await command.new(aws_url=proxy.url)
    assert ended.code == 2, ended
    assert f"AWS goes on with the stack {command.stack}: `ecs-worker deploy status {command.stack}`" in ended.err
    assert "AWS denies cloudformation:DescribeStackEvents" in ended.err
    await stacks.settles(command.aws, command.stack, "CREATE_COMPLETE")
    await command.well("delete", command.stack, "--all", "--yes")


async def test_what_was_made_when_it_goes_wrong_is_named_with_how_to_remove_it(command: Command) -> None:
    """Between the secret and the stack."""
    async with ChaosProxy(command.aws.url, api_path="") as proxy:
        second = {"containing": "Action=CreateChangeSet", "nth": (2,)}
        proxy.fault(fault(What.ERROR, **second, code="Oops", message="Later.", status=400))
        ended = await command.new(aws_url=proxy.url, PREFECT_API_KEY="pnu_1")
    assert ended.code == 2, ended
    secret = f"ecs-worker/{command.stack}/prefect-api-key"
    assert f"Left behind: the secret {secret}" in ended.err
    assert f"aws secretsmanager delete-secret --region us-east-1 --secret-id {secret}" in ended.err
    assert "AWS did not do what was asked: CreateChangeSet: Later (Oops)." in ended.err
    await command.aws.secretsmanager.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
    names = [each["StackName"] for each in (await command.aws.cloudformation.describe_stacks())["Stacks"]]
    assert command.stack not in names


async def test_a_pool_that_cannot_be_changed_is_told_though_the_worker_runs(command: Command) -> None:
    async with ChaosProxy(command.admin.server.url.removesuffix("/api")) as proxy:
        proxy.fault(fault(What.ERROR, action="PATCH /work_pools/*", status=500, message="Oops"))
        ended = await command.new(api_url=proxy.api_url, PREFECT_API_KEY="pnu_1")
    assert ended.code == 2, ended
    assert f"the defaults of the work pool {command.pool} could not be set: " in ended.err
    assert f"Give `ecs-worker deploy --pool {command.pool}` again" in ended.err
    assert "execution_role_arn" not in await command.defaults()
    told = await command.well("--pool", command.pool, "--prefect-api-url", command.admin.server.url, "--yes")
    assert "Set the defaults of the work pool" in told
    await command.well("delete", command.stack, "--all", "--yes")


async def test_a_name_that_is_taken(command: Command, aws: Aws) -> None:
    template = '{"Resources": {"Group": {"Type": "AWS::Logs::LogGroup"}}}'
    theirs = fresh("theirs")
    await aws.cloudformation.create_stack(StackName=theirs, TemplateBody=template)
    ended = await command.new("--stack-name", theirs)
    await command.refused(ended, f"The stack {theirs} is there already", "another --stack-name")
    await command.refused(await command("delete", theirs, "--yes"), "none that `ecs-worker deploy` has made")
    await aws.cloudformation.delete_stack(StackName=theirs)
    other = await command.admin.create_pool(base_job_template=quick_template())
    assert (await command.new("--new-cluster")).code == 0
    ended = await command("--pool", other, "--image", stacks.IMAGE, "--stack-name", command.stack, "--yes")
    assert ended.code == 2
    assert f"serves the work pool {command.pool!r} already, not {other!r}: give another --stack-name" in ended.err
    assert (await command("delete", command.stack, "--all", "--yes")).code == 0


async def test_a_region_without_a_network_for_a_worker(command: Command, aws: Aws) -> None:
    async with connected(aws.url, ("ec2",), region="eu-west-2") as closed:
        tables = (await closed.ec2.describe_route_tables())["RouteTables"]
        await closed.ec2.delete_route(RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock="0.0.0.0/0")
        ended = await command.new("--region", "eu-west-2")
        await command.refused(ended, "has a way to the internet", "NAT gateway", "--subnets")
        (subnet, *_) = (await closed.ec2.describe_subnets())["Subnets"]
        (other,) = (await closed.ec2.create_vpc(CidrBlock="10.9.0.0/16"),)
        apart = await closed.ec2.create_subnet(VpcId=other["Vpc"]["VpcId"], CidrBlock="10.9.1.0/24")
        both = f"{subnet['SubnetId']},{apart['Subnet']['SubnetId']}"
        ended = await command.new("--region", "eu-west-2", "--subnets", both)
        await command.refused(ended, "belong to one VPC")
        ended = await command.new("--region", "eu-west-2", "--subnets", subnet["SubnetId"], "--dry-run")
        assert ended.code == 0, ended
        assert f"No route leads from {subnet['SubnetId']} to the internet" in ended.err
        await closed.ec2.delete_subnet(SubnetId=apart["Subnet"]["SubnetId"])
        await closed.ec2.delete_vpc(VpcId=other["Vpc"]["VpcId"])
    async with connected(aws.url, ("ec2",), region="eu-west-3") as bare:
        (vpc,) = (await bare.ec2.describe_vpcs())["Vpcs"]
        for subnet in (await bare.ec2.describe_subnets())["Subnets"]:
            await bare.ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        (gateway,) = (await bare.ec2.describe_internet_gateways())["InternetGateways"]
        place = {"InternetGatewayId": gateway["InternetGatewayId"], "VpcId": vpc["VpcId"]}
        await bare.ec2.detach_internet_gateway(**place)
        await bare.ec2.delete_vpc(VpcId=vpc["VpcId"])
        ended = await command.new("--region", "eu-west-3")
        await command.refused(ended, "eu-west-3", "has no default VPC", "--vpc-id")


async def test_commands_for_a_stack_that_is_not_there_say_what_to_do(command: Command) -> None:
    for name in ("upgrade", "rollback", "diff", "status", "delete"):
        ended = await command(name, "--pool", command.pool)
        await command.refused(
            ended, f"no deployed worker of the work pool {command.pool!r}", "`ecs-worker deploy --pool"
        )
    await command.refused(await command("status", "no-such"), "There is no stack 'no-such'", "`ecs-worker deploy list`")
    await command.refused(await command("delete", "--yes"), "Name the stack")
