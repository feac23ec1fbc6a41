"""What the judgements make of facts that the set-up of integration/doctor doesn't have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ecs_worker.aws.ec2 import (
    ALL_PORTS,
    EVERYWHERE,
    Egress,
    Endpoint,
    NatGateway,
    Route,
    RouteTable,
    SecurityGroup,
    Subnet,
)
from ecs_worker.aws.ecr import Platform
from ecs_worker.aws.iam import Role, Verdict
from ecs_worker.doctor.checks import image, job, network, prefect, rights
from ecs_worker.doctor.checks.image import ImageFacts, ImageWanted
from ecs_worker.doctor.checks.job import JobFacts
from ecs_worker.doctor.checks.network import NetworkFacts, NetworkWanted
from ecs_worker.doctor.checks.prefect import PrefectFacts
from ecs_worker.doctor.checks.rights import PrincipalFacts, RightsFacts, RoleFacts, Simulated
from ecs_worker.doctor.finding import Finding, Group, Line, Result, Untold, merged
from ecs_worker.iam.evaluate import keys_of
from ecs_worker.iam.policy import allow, document
from ecs_worker.iam.rights import ECS_TASKS, ExecutionNeeds, WorkerNeeds, trust
from ecs_worker.iam.rights import execution as execution_rights
from ecs_worker.iam.rights import worker as worker_rights
from ecs_worker.job.assembly import draft
from ecs_worker.job.configuration import JobConfiguration
from ecs_worker.prefect_api.transport import ServerTime
from support.builders import ANY_RUN

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
AT_ONCE = ServerTime(NOW, NOW, NOW)
NAMES = (Result.OK, Result.WARNING, Result.FAILED, Result.SKIPPED)
OK, WARNING, FAILED, SKIPPED = NAMES


def of(findings: Any, check: str) -> Finding:
    (found,) = [each for each in findings if each.check.startswith(check)]
    assert isinstance(found, Finding)
    return found


# Prefect ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "result", "told"),
    [
        ("2.19.9", FAILED, "too old"),
        ("2.20.0", OK, "2.20.0"),
        ("3.0.0", OK, "3.0.0"),
        ("3.8.8+dev", OK, "3.8.8"),
        ("4.0.0", WARNING, "newer"),
        (None, OK, "Prefect Cloud"),
    ],
)
def test_versions(version: str | None, result: Result, told: str) -> None:
    found = of(prefect.findings(PrefectFacts("http://p/api", AT_ONCE, version)), "version")
    assert found.result is result
    assert told in found.told


@pytest.mark.parametrize(
    ("seconds", "result"),
    [(0, OK), (5, OK), (6, WARNING), (-6, WARNING), (59, WARNING), (60, FAILED), (-3600, FAILED)],
)
def test_clocks(seconds: int, result: Result) -> None:
    time = ServerTime(NOW + timedelta(seconds=seconds), NOW, NOW)
    assert of(prefect.findings(PrefectFacts("http://p/api", time)), "clock").result is result


def test_a_slow_answer_is_no_wrong_clock() -> None:
    time = ServerTime(NOW, NOW - timedelta(seconds=10), NOW + timedelta(seconds=10))
    assert of(prefect.findings(PrefectFacts("http://p/api", time)), "clock").result is OK
    silent = PrefectFacts("http://p/api", replace(AT_ONCE, told=None))
    assert of(prefect.findings(silent), "clock").result is WARNING


def test_what_an_old_server_does_not_have_is_no_fault_of_proxies() -> None:
    facts = PrefectFacts("http://p/api", AT_ONCE, "2.20.26", event_stream="the server answered 500")
    assert "Update the server to 3.x" in of(prefect.findings(facts), "event stream").remedy


# Network ------------------------------------------------------------------------------------------------------

VPC, SUBNET, TABLE = "vpc-1", "subnet-1", "rtb-1"
SERVICES = frozenset({"ecr.api", "ecr.dkr", "s3", "logs"})
OPEN = SecurityGroup("sg-1", VPC, "default", (Egress("-1", ALL_PORTS, (EVERYWHERE,)),))


def table(*routes: Route, subnets: tuple[str, ...] = (SUBNET,), main: bool = False, name: str = TABLE) -> RouteTable:
    return RouteTable(name, VPC, main, frozenset(subnets), routes)


def network_of(
    *routes: Route,
    tables: list[RouteTable] | None = None,
    gateways: list[NatGateway] | None = None,
    endpoints: list[Endpoint] | None = None,
    group: SecurityGroup = OPEN,
    **wanted: Any,
) -> list[Finding]:
    facts = NetworkFacts(
        NetworkWanted("eu-west-1", frozenset({SUBNET}), **{"services": SERVICES, **wanted}),
        ("f/d",),
        (Subnet(SUBNET, VPC, "a", free=100),),
        {VPC: [table(*routes)] if tables is None else tables},
        {VPC: gateways or []},
        {VPC: endpoints or []},
        {VPC: [group]},
    )
    return list(network.findings(facts))


def endpoint(service: str, *, state: str = "available", private_dns: bool = True) -> Endpoint:
    gateway = service == "s3"
    return Endpoint(f"vpce-{service}", service, state, gateway, private_dns, frozenset({TABLE} if gateway else ()))


ALL = [endpoint(each) for each in SERVICES]


def way(findings: list[Finding]) -> Finding:
    return of(findings, "way out")


def test_a_way_that_leads_elsewhere_is_said_and_not_guessed() -> None:
    found = way(network_of(Route(EVERYWHERE, "tgw-1")))
    assert (found.result, found.about) == (WARNING, ("f/d",))
    assert "tgw-1" in found.told
    assert "--probe" in found.remedy


def test_the_main_table_is_for_subnets_that_no_other_names() -> None:
    out = Route(EVERYWHERE, "igw-1")
    tables = [table(subnets=("subnet-2",)), table(out, subnets=(), main=True, name="rtb-main")]
    assert way(network_of(tables=tables, public=True)).result is OK
    assert way(network_of(tables=[table(), tables[1]], public=True)).result is FAILED


@pytest.mark.parametrize(
    ("gateway", "told"),
    [
        (NatGateway("nat-1", "subnet-9", "pending"), "nat-1 is pending"),
        (NatGateway("nat-1", "subnet-9", "failed"), "nat-1 is failed"),
        (NatGateway("nat-1", "subnet-9", "available", public=False), "a private one"),
        (NatGateway("nat-2", "subnet-9", "available"), "nat-1 is gone"),
    ],
)
def test_nat_gateways_that_lead_nowhere(gateway: NatGateway, told: str) -> None:
    outer = table(Route(EVERYWHERE, "igw-1"), subnets=("subnet-9",), name="rtb-9")
    found = way(network_of(tables=[table(Route(EVERYWHERE, "nat-1")), outer], gateways=[gateway]))
    assert found.result is FAILED
    assert told in found.told


def test_endpoints_count_only_if_they_work() -> None:
    assert way(network_of(endpoints=ALL)).result is OK
    for broken in (endpoint("logs", state="pending"), endpoint("logs", private_dns=False)):
        found = way(network_of(endpoints=[*(each for each in ALL if each.service != "logs"), broken]))
        assert "no endpoint for logs" in found.told


def test_prefect_cloud_is_beyond_endpoints_but_for_private_links() -> None:
    url = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
    found = way(network_of(endpoints=ALL, api_url=url))
    assert found.result is WARNING
    assert "PrivateLink" in found.told


def test_tasks_on_instances_need_only_prefect_which_may_be_near() -> None:
    assert way(network_of(services=frozenset())).result is WARNING
    cloud = network_of(services=frozenset(), api_url="https://api.prefect.cloud/api/accounts/a/workspaces/w")
    assert way(cloud).result is FAILED


@pytest.mark.parametrize(
    ("rule", "result", "told"),
    [
        (Egress("tcp", (443, 443), (EVERYWHERE,)), FAILED, "TCP port 4200"),
        (Egress("tcp", (0, 65535), (EVERYWHERE,)), OK, "443 and 4200"),
        (Egress("tcp", (443, 4200), ("::/0",)), OK, "443 and 4200"),
        (Egress("udp", (0, 65535), (EVERYWHERE,)), FAILED, "443 and 4200"),
        (Egress("-1", ALL_PORTS, ("pl-1", "sg-9")), WARNING, "only at pl-1, sg-9"),
    ],
)
def test_security_groups(rule: Egress, result: Result, told: str) -> None:
    findings = network_of(group=replace(OPEN, egress=(rule,)), api_url="http://prefect.internal:4200/api")
    found = of(findings, "security groups")
    assert found.result is result
    assert told in found.told


def test_what_ec2_does_not_tell_is_not_judged() -> None:
    untold = Untold("no", denied=True)
    facts = NetworkFacts(NetworkWanted("eu-west-1", frozenset({SUBNET})), (), untold)
    first, *others = network.findings(facts)
    assert first.result is WARNING
    assert "iam policy doctor" in first.remedy
    assert [each.result for each in others] == [SKIPPED, SKIPPED]


# Rights -------------------------------------------------------------------------------------------------------

PRINCIPAL = "arn:aws:iam::1:role/team/worker"
RUN = allow("RunTasks", "ecs:RunTask", "arn:aws:ecs:eu-west-1:1:task-definition/f:*")


def test_what_can_not_be_simulated_is_told_once() -> None:
    untold = Untold("AccessDenied", denied=True)
    asked = tuple(Simulated(each, untold) for each in (RUN, allow("FindTasks", "ecs:ListTasks", "*")))
    (found,) = rights.findings(RightsFacts("p", principals=(PrincipalFacts(PRINCIPAL, asked),)))
    assert (found.check, found.result) == ("worker worker", WARNING)


def test_the_root_user_is_not_guessed_about() -> None:
    (found,) = rights.findings(RightsFacts("p", principals=(Untold("it is the root user"),)))
    assert found.result is WARNING


def test_a_right_is_as_good_as_its_worst_resource() -> None:
    verdicts = (Verdict("ecs:RunTask", "a", "allowed"), Verdict("ecs:RunTask", "b", "implicitDeny"))
    facts = PrincipalFacts(PRINCIPAL, (Simulated(RUN, verdicts),))
    (found,) = rights.findings(RightsFacts("p", principals=(facts,)))
    assert (found.result, found.told) == (FAILED, "not allowed on b")


def test_what_hangs_on_more_than_is_simulated_is_not_guessed() -> None:
    verdict = Verdict("ecr:BatchGetImage", "r", "implicitDeny", missing=("aws:RequestedRegion", "ecs:cluster"))
    reads = (Simulated(allow("PullImages", "ecr:BatchGetImage", "r"), (verdict,)),)
    arn = "arn:aws:iam::1:role/r"
    _, found = rights.of_role(RoleFacts(arn, ECS_TASKS, "r", "1", Role(arn, trust(ECS_TASKS)), reads), "p")
    assert found.result is WARNING
    assert found.told.endswith("that hangs on aws:RequestedRegion, which only real requests have")


def test_the_keys_of_our_own_policies_are_those_that_are_asked_with() -> None:
    some = frozenset({"arn:aws:ecs:r:1:x"})
    worker = WorkerNeeds(some, some, some, some, some, some, some, some, some, True, True, True)  # noqa: FBT003 - all
    execution = ExecutionNeeds(some, some, some, some, some, some, some)
    statements = [*worker_rights(worker), *execution_rights(execution)]
    assert keys_of([document(statements)]) == rights._OUR_KEYS  # noqa: SLF001 - what is tested


def test_a_role_of_another_account_can_not_be_passed() -> None:
    facts = RoleFacts("arn:aws:iam::2:role/r", ECS_TASKS, "eu-west-1", "1", None)
    (found,) = rights.of_role(facts, "p")
    assert found.result is FAILED
    assert "is of the account 2" in found.told


@pytest.mark.parametrize(
    ("condition", "result"),
    [
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:eu-west-1:1:*"}}, OK),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:ecs:us-east-1:1:*"}}, FAILED),
        ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, WARNING),
    ],
)
def test_whom_a_role_trusts(condition: dict[str, Any], result: Result) -> None:
    policy = trust(ECS_TASKS)
    policy["Statement"][0]["Condition"] = condition
    facts = RoleFacts("arn:aws:iam::1:role/r", ECS_TASKS, "eu-west-1", "1", Role("arn:aws:iam::1:role/r", policy))
    (found,) = rights.of_role(facts, "p")
    assert found.result is result


def test_a_trust_policy_that_is_none_is_said_to_be() -> None:
    role = Role("arn:aws:iam::1:role/r", {"Statement": ["Allow"]})
    (found,) = rights.of_role(RoleFacts(role.arn, ECS_TASKS, "r", "1", role), "p")
    assert found.result is WARNING


@pytest.mark.parametrize(
    ("pattern", "request_"),
    [
        ("*", "*"),
        ("arn:aws:ecs:r:1:task-definition/prefect_p_*:*", "arn:aws:ecs:r:1:task-definition/prefect_p_X:1"),
        ("arn:aws:ecs:r:1:task/c/*", "arn:aws:ecs:r:1:task/c/X"),
        ("arn:aws:logs:r:1:log-group:g", "arn:aws:logs:r:1:log-group:g"),
        ("arn:aws:logs:r:1:log-group:g:*", "arn:aws:logs:r:1:log-group:g:log-stream:X"),
        ("arn:aws:secretsmanager:r:1:secret:s-??????", "arn:aws:secretsmanager:r:1:secret:s-a1B2c3"),
    ],
)
def test_requests_name_no_patterns(pattern: str, request_: str) -> None:
    assert rights.concrete(pattern) == request_.replace("X", "ecs-worker-doctor")


# Images and jobs ----------------------------------------------------------------------------------------------

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/flows"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (ECR, ("123456789012", "eu-west-1", "team/flows", "latest")),
        (f"{ECR}:7", ("123456789012", "eu-west-1", "team/flows", "7")),
        (f"{ECR}@sha256:ab", ("123456789012", "eu-west-1", "team/flows", "sha256:ab")),
        (f"{ECR}:7@sha256:ab", ("123456789012", "eu-west-1", "team/flows", "sha256:ab")),
        ("prefecthq/prefect:3-latest", None),
        ("ghcr.io/team/flows:7", None),
    ],
)
def test_which_image_is_asked_about(name: str, place: tuple[str, str, str, str] | None) -> None:
    assert ImageWanted(name).place == place


def test_images() -> None:
    (elsewhere,) = image.findings(ImageFacts(ImageWanted("prefecthq/prefect"), ()))
    assert elsewhere.result is SKIPPED
    assert "isn't on ECR" in elsewhere.told
    (untold,) = image.findings(ImageFacts(ImageWanted(ECR), (), Untold("no", denied=True)))
    assert untold.result is WARNING
    windows = ImageFacts(ImageWanted(ECR, system="WINDOWS"), (), (Platform("linux", "amd64", None),))
    found = list(image.findings(windows))
    assert [each.result for each in found] == [OK, FAILED, SKIPPED]
    assert "windows/amd64" in found[1].told


@pytest.mark.parametrize(
    ("env", "ecs", "result"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, "https://ecs.eu-west-1.amazonaws.com", FAILED),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, "http://127.0.0.1:5000", OK),
        ({"PREFECT_API_URL": "https://p.example/api"}, "https://ecs.eu-west-1.amazonaws.com", OK),
        ({}, "", FAILED),
    ],
)
def test_addresses_that_containers_can_not_reach(env: dict[str, str], ecs: str, result: Result) -> None:
    made = draft(JobConfiguration(env=env), replace(ANY_RUN, inherited_env={}), None)
    found = of(job.findings(JobFacts("f/d", made, ecs=ecs)), "Prefect's address")
    assert found.result is result


def test_an_address_from_a_secret_is_not_read() -> None:
    secrets = {"PREFECT_API_URL": "arn:aws:ssm:eu-west-1:1:parameter/url"}
    made = draft(JobConfiguration(secrets=secrets, execution_role_arn="r"), replace(ANY_RUN, inherited_env={}), None)
    assert of(job.findings(JobFacts("f/d", made)), "Prefect's address").result is SKIPPED


def test_equal_findings_are_told_once_about_all() -> None:
    first, second = (Line(Group.JOB, "a", (name,)) for name in ("f/1", "f/2"))
    other = Line(Group.AWS, "b").ok("there")
    assert merged([first.ok("well"), second.ok("well"), other, first.ok("well")]) == [
        other,
        Finding(Group.JOB, "a", Result.OK, "well", about=("f/1", "f/2")),
    ]
