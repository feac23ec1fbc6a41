"""What a stack is to be: worked out from what is asked, what there is, and what AWS tells. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ecs_worker.deploy import credentials, template
from ecs_worker.deploy.asked import check_size, extra_options, given, without_effect
from ecs_worker.deploy.credentials import API_KEY, AUTH_STRING, Credential, Step
from ecs_worker.deploy.network import Network, Way, choose, ways
from ecs_worker.deploy.pool import default
from ecs_worker.deploy.stack import check_changeable, ours, stack_name
from ecs_worker.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ecs_worker.aws.cloudformation import CloudFormation, Stack
    from ecs_worker.aws.ec2 import Ec2, Subnet
    from ecs_worker.aws.ecs import Cluster, Ecs
    from ecs_worker.aws.secrets import Secrets
    from ecs_worker.deploy.pool import Facts
    from ecs_worker.deploy.wishes import Wishes
    from ecs_worker.prefect_api.schemas import WorkPool
    from ecs_worker.settings import PrefectSettings

_ACTIVE = "ACTIVE"
_SPOT = "FARGATE_SPOT"
_KINDS = {"public": "ENABLED", "private": "DISABLED"}  # of new networks: whether their tasks get public addresses
_NO_NEW_NETWORK = {"NewVpc": "none", "VpcEndpoints": "false"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `parameters`: those to give (None: keep), `values`: all that the stack will then have.

    `existing` is the stack as it is now, None for a new one; `current` its template. `notes` are sentences to be told
    beside it. `taken_over` is what another stack, whose place this one takes, has given to the pool.
    """

    stack: str
    pool: str
    existing: Stack | None
    template: str
    parameters: Mapping[str, str | None]
    values: Mapping[str, str]
    current: str = ""
    credentials: tuple[Credential, ...] = ()
    notes: tuple[str, ...] = ()
    taken_over: Facts | None = None

    @property
    def before(self) -> Mapping[str, str]:
        """The parameters that the stack has now."""
        return self.existing.parameters if self.existing else {}

    @property
    def same(self) -> bool:
        """Whether the stack has all this already, as far as its parameters and its template say."""
        return self.current == self.template and self.values_same

    @property
    def values_same(self) -> bool:
        """Whether the stack has all the parameters already."""
        return all(self.before.get(name) == value for name, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Here:
    """Where the stack is, and AWS there."""

    region: str
    account: str
    partition: str
    cloudformation: CloudFormation
    ecs: Ecs
    ec2: Ec2
    secrets: Secrets

    @property
    def place(self) -> str:
        """It, for messages."""
        return f"{self.region}, account {self.account}"


async def find(here: Here, wishes: Wishes) -> tuple[str, Stack | None]:
    """The name of the stack that is meant, and the stack if there is one. Raises UserError if none is named."""
    name = wishes.stack_name or (stack_name(wishes.pool) if wishes.pool else "")
    if not name:
        raise UserError("--pool is missing: name the work pool that the worker is to serve.")
    found = await here.cloudformation.stack(name)
    if found is None or found.status == "REVIEW_IN_PROGRESS":  # what is only proposed is still to be made
        return name, None
    if not ours(found):
        raise UserError(
            f"The stack {name} is there already, and is none that `ecs-worker deploy` has made: give another "
            "--stack-name."
        )
    check_changeable(found)
    if wishes.pool and found.parameters.get("PoolName") != wishes.pool:
        raise UserError(
            f"The stack {name} serves the work pool {found.parameters.get('PoolName')!r} already, not {wishes.pool!r}: "
            "give another --stack-name."
        )
    return name, found


async def changed(here: Here, wishes: Wishes, name: str, existing: Stack) -> Plan:
    """The plan for a stack that there is: what is asked changes, all else stays."""
    return await _plan(here, wishes, name, str(existing.parameters["PoolName"]), existing, None, {})


async def wanted(
    here: Here, wishes: Wishes, name: str, existing: Stack | None, pool: WorkPool | None, prefect: PrefectSettings
) -> Plan:
    """The plan for a stack that may still have to be made. `pool` None: so has the work pool."""
    pool_name = wishes.pool or (existing.parameters["PoolName"] if existing else "")
    if not pool_name:
        raise UserError("--pool is missing: name the work pool that the worker is to serve.")
    active = {
        parameter: secret.get_secret_value()
        for parameter, secret in ((API_KEY, prefect.api_key), (AUTH_STRING, prefect.api_auth_string))
        if secret is not None
    }
    chosen = {} if existing else {"PrefectApiUrl": prefect.api_url}
    return await _plan(here, wishes, name, pool_name, existing, pool, active, chosen)


async def restored(here: Here, name: str, existing: Stack) -> Plan:
    """The plan that brings a stack back to the parameters of before its last change. Raises UserError."""
    current = await here.cloudformation.template(name)
    before = template.remembered(current)
    if before is None:
        raise UserError(f"The stack {name} has not been changed since it was made, so there is nothing to go back to.")
    values = {parameter: before.get(parameter, value) for parameter, value in existing.parameters.items()}
    return Plan(
        stack=name,
        pool=existing.parameters["PoolName"],
        existing=existing,
        current=current,
        template=template.remembering(template.forgetting(current), existing.parameters),
        parameters=values,
        values=values,
    )


async def _plan(
    here: Here,
    wishes: Wishes,
    name: str,
    pool: str,
    existing: Stack | None,
    work_pool: WorkPool | None,
    active: Mapping[str, str],
    chosen: Mapping[str, str] | None = None,
) -> Plan:
    before = existing.parameters if existing else {}
    asked = {"PoolName": pool, **(chosen or {}), **given(wishes)}
    extra = extra_options(wishes, before.get("ExtraOptions", ""))
    if extra is not None:
        asked["ExtraOptions"] = extra
    if existing is None and "Image" not in asked:
        raise UserError(
            "--image is missing, which a new stack needs: build ecs-worker's image, push it to a registry that ECS can "
            "reach, and give its name."
        )
    for parameter in ("PoolName", "PrefectApiUrl"):
        fault = template.parameters()[parameter].fault(asked[parameter]) if parameter in asked else None
        if fault is not None:
            raise UserError(f"The {'work pool' if parameter == 'PoolName' else 'Prefect API URL'} {fault}.")
    if urlsplit(asked.get("PrefectApiUrl", "")).password:
        raise UserError(
            "The Prefect API URL holds a password, which everybody could read who may look at the stack: leave it out "
            "of the URL, and give --prefect-auth-string."
        )
    for parameter, option in (("AlarmsTopicArn", "--alarms"), ("SecretsKeyArn", "--secrets-key-arn")):
        _check_region(here, asked.get(parameter, ""), option)
    notes = without_effect(wishes)
    asked |= await _cluster(here, wishes, existing, work_pool, {**before, **asked}.get("Capacity", ""))
    asked |= await _network(here, wishes, existing, {**before, **asked}.get("SecurityGroup", ""), notes)
    kept = await _credentials(here, wishes, name, before, active, asked)
    values = {
        parameter: asked.get(parameter, before.get(parameter, declared.default or ""))
        for parameter, declared in template.parameters().items()
    }
    check_size(values["Cpu"], values["Memory"])
    given_now: dict[str, str | None] = {parameter: None for parameter in template.parameters() if parameter in before}
    current = await here.cloudformation.template(name) if existing else ""
    changes = any(before.get(parameter) != value for parameter, value in values.items())
    back = (before if changes else template.remembered(current)) if existing else None
    new = template.remembering(template.text(), back)
    if existing and "DesiredCount" not in asked and (changes or new != current):
        count = await _scaled(here, existing)
        if count not in {None, values["DesiredCount"]}:
            asked["DesiredCount"] = values["DesiredCount"] = str(count)
            notes.append(
                f"The desired count was set to {count} outside of deploy: it stays so without --desired-count."
            )
    return Plan(
        stack=name,
        pool=pool,
        existing=existing,
        current=current,
        template=new,
        parameters=given_now | asked,
        values=values,
        credentials=tuple(kept),
        notes=tuple(notes),
    )


async def _scaled(here: Here, existing: Stack) -> str | None:
    """How many workers the service is to run now, whoever has said so; None: there is no service.

    With any change of the service CloudFormation sets it back to what the stack's parameter says.
    """
    if "ServiceName" not in existing.outputs:
        return None
    service = await here.ecs.service(existing.outputs["ClusterArn"], existing.outputs["ServiceName"])
    return None if service is None else str(service.desired)


async def _cluster(
    here: Here, wishes: Wishes, existing: Stack | None, pool: WorkPool | None, capacity: str
) -> dict[str, str]:
    if wishes.new_cluster:
        return {"ClusterArn": ""}
    named, origin = wishes.cluster, "--cluster"
    if not named and existing is None and pool is not None:
        named, origin = default(pool.base_job_template, "cluster"), f"the default cluster of the work pool {pool.name}"
    if not named:
        if existing is not None and wishes.capacity == "spot" and existing.parameters.get("ClusterArn"):
            _check_capacity(await active_cluster(here, existing.outputs["ClusterArn"], "The cluster"), capacity)
        return {}
    found = await active_cluster(here, named, origin, ", or give --new-cluster")
    _check_capacity(found, capacity)
    return {"ClusterArn": found.arn}


async def active_cluster(here: Here, named: str, origin: str, instead: str = "") -> Cluster:
    """The cluster of that name or ARN. Raises UserError, with `origin` for where it was named, if there is none."""
    _check_region(here, named, origin)
    found = await here.ecs.cluster(named)
    if found is None or found.status != _ACTIVE:
        raise UserError(
            f"{origin} is {named!r}, but there is no such active cluster in {here.place}: "
            f"correct --cluster or --region{instead}."
        )
    return found


def _check_capacity(cluster: Cluster, capacity: str) -> None:
    if capacity == "spot" and _SPOT not in cluster.capacity_providers:
        raise UserError(
            f"--capacity spot needs the capacity provider {_SPOT}, which the cluster {cluster.name} lacks: add it with "
            f"`aws ecs put-cluster-capacity-providers`, or give --new-cluster."
        )


def _check_region(here: Here, arn: str, origin: str) -> None:
    parts = arn.split(":")
    if arn.startswith("arn:") and len(parts) > 3 and parts[3] != here.region:  # noqa: PLR2004 - the ARN's Region
        raise UserError(
            f"{origin} is in the Region {parts[3]}, but the stack is for {here.region}: give --region {parts[3]}, or "
            "name another."
        )


async def _network(
    here: Here, wishes: Wishes, existing: Stack | None, security_group: str, notes: list[str]
) -> dict[str, str]:
    public_ip = None if wishes.assign_public_ip is None else "ENABLED" if wishes.assign_public_ip else "DISABLED"
    if wishes.new_vpc is not None:
        return _new_network(wishes)
    made = existing is not None and not existing.parameters["VpcId"]  # by the stack
    stays = existing is not None and not wishes.vpc_id and not wishes.subnets
    if wishes.vpc_endpoints and not (made and stays):
        raise UserError(
            "--vpc-endpoints are made in a new network only: give --new-vpc private (or public), or make them in your "
            "network yourself."
        )
    if made and stays and public_ip is not None:
        raise UserError(
            "--assign-public-ip follows from the stack's own network: leave it out, or give another --new-vpc."
        )
    if existing is not None and stays:
        if wishes.security_group:
            await _check_group(here, security_group, existing.outputs["VpcId"])
        return {"AssignPublicIp": public_ip} if public_ip else {}
    network = await (_given_network(here, wishes, notes) if wishes.subnets else _found_network(here, wishes.vpc_id))
    await _check_group(here, security_group, network.vpc_id)
    return {
        "VpcId": network.vpc_id,
        "Subnets": ",".join(network.subnets),
        "AssignPublicIp": public_ip or ("ENABLED" if network.public_ip else "DISABLED"),
        **(_NO_NEW_NETWORK if made else {}),
    }


def _new_network(wishes: Wishes) -> dict[str, str]:
    others = {
        "--vpc-id": wishes.vpc_id,
        "--subnets": wishes.subnets,
        "--security-group": wishes.security_group,
        "--assign-public-ip": wishes.assign_public_ip,
    }
    excluded = [option for option, value in others.items() if value is not None]
    if wishes.new_vpc not in _KINDS:
        raise UserError(f"--new-vpc is {wishes.new_vpc!r}, but must be {' or '.join(_KINDS)}.")
    if excluded:
        raise UserError(f"--new-vpc makes a network of its own: leave out {' and '.join(excluded)}.")
    return {"VpcId": "", "Subnets": "", "SecurityGroup": "", "AssignPublicIp": _KINDS[wishes.new_vpc]}


async def _given_network(here: Here, wishes: Wishes, notes: list[str]) -> Network:
    ids = [each.strip() for each in (wishes.subnets or "").split(",") if each.strip()]
    found = await here.ec2.subnets_named(ids)
    missing = [each for each in ids if each not in {subnet.id for subnet in found}]
    if missing or not ids:
        raise UserError(
            f"--subnets names {', '.join(missing) or 'none'}, which {here.place}, doesn't "
            "have: correct it, or --region."
        )
    vpcs = sorted({subnet.vpc_id for subnet in found})
    if len(vpcs) > 1 or (wishes.vpc_id and vpcs != [wishes.vpc_id]):
        raise UserError(
            f"--subnets names subnets of {' and '.join(vpcs)}: a worker's subnets belong to one VPC"
            f"{f', here {wishes.vpc_id} of --vpc-id' if wishes.vpc_id else ''}."
        )
    out = await _ways(here, vpcs[0], found)
    closed = [each for each in ids if out[each] is Way.NONE]
    if closed:
        notes.append(
            f"No route leads from {', '.join(closed)} to the internet. The worker needs VPC endpoints there for ECS, "
            "ECR, S3, CloudWatch Logs and Secrets Manager, and a way to the Prefect API."
        )
    return Network(vpcs[0], tuple(ids), public_ip=Way.PUBLIC in out.values())


async def _found_network(here: Here, vpc_id: str | None) -> Network:
    vpc = vpc_id or await here.ec2.default_vpc()
    if vpc is None:
        raise UserError(f"{here.place}, has no default VPC: name one with --vpc-id, or subnets with --subnets.")
    if vpc_id and not await here.ec2.vpc_exists(vpc_id):
        raise UserError(f"--vpc-id is {vpc_id!r}, which {here.place}, doesn't have: correct it, or --region.")
    subnets = await here.ec2.subnets_in(vpc)
    network = choose(subnets, await _ways(here, vpc, subnets))
    if network is None:
        raise UserError(
            f"None of the {len(subnets)} subnets of {vpc} has a way to the internet, so a worker there reaches neither "
            "its image nor Prefect: add a NAT gateway, or an internet gateway and its route 0.0.0.0/0, or name subnets "
            "with --subnets."
        )
    return network


async def _ways(here: Here, vpc: str, subnets: Sequence[Subnet]) -> dict[str, Way]:
    return ways(subnets, await here.ec2.route_tables(vpc))


async def _check_group(here: Here, group: str, vpc: str) -> None:
    if not group:
        return
    found = await here.ec2.security_group_vpc(group)
    if found is None:
        raise UserError(f"--security-group is {group!r}, which {here.place}, doesn't have: correct it.")
    if found != vpc:
        raise UserError(
            f"The security group {group} belongs to {found}, but the worker is to live in {vpc}: give a "
            "--security-group of that VPC."
        )


async def _credentials(
    here: Here,
    wishes: Wishes,
    name: str,
    before: Mapping[str, str],
    active: Mapping[str, str],
    asked: dict[str, str],
) -> list[Credential]:
    """The secrets to be seen to; their ARNs are added to `asked`, as far as they are known."""
    found = []
    for parameter, option, secret, arn in (
        (API_KEY, "--prefect-api-key", wishes.prefect_api_key, wishes.prefect_api_key_secret_arn),
        (AUTH_STRING, "--prefect-auth-string", wishes.prefect_auth_string, wishes.prefect_auth_string_secret_arn),
    ):
        value = secret.get_secret_value() if secret is not None else None
        if arn is not None:
            if arn:
                _check_region(here, arn, f"{option}-secret-arn")
                if await here.secrets.find(arn) is None:
                    raise UserError(
                        f"{option}-secret-arn is {arn!r}, but there is no such secret: correct it, or give {option}, "
                        "for which a secret is made."
                    )
            continue
        now = before.get(parameter, "")
        if value is None:
            if now and not credentials.is_ours(now, name, parameter):
                continue  # somebody else's, who keeps it
            value = active.get(parameter)
        if value is not None:
            credential = await credentials.plan(here.secrets, name, parameter, value)
            found.append(credential)
            asked[parameter] = credential.arn or expected_arn(here, credential)
    return found


def expected_arn(here: Here, credential: Credential) -> str:
    """What stands for the ARN of a secret that is only made once the change has been agreed to."""
    assert credential.step is Step.MAKE, "the others have theirs"
    return f"arn:{here.partition}:secretsmanager:{here.region}:{here.account}:secret:{credential.name}-??????"
