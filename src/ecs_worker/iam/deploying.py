"""Which rights whoever gives `ecs-worker deploy` needs: for its own calls, and for those of CloudFormation.

CloudFormation makes the stack's resources with the rights of whoever changes the stack. So a deployer could make them
without a stack, too; `aws:CalledViaFirst` leaves only CloudFormation that way. What each type of resource is made,
changed and deleted with: the handlers' permissions in CloudFormation's resource type schemas, without those for
properties that the template doesn't have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ecs_worker.iam.policy import Statement, allow
from ecs_worker.iam.rights import ECS, ECS_TASKS

if TYPE_CHECKING:
    from ecs_worker.iam.rights import Scope

STACKS = ("ecs-worker-*",)
"""The stacks of `ecs-worker deploy`, unless they are given other names."""

_KEPT = 24  # characters of a stack's name that are left in a role's, which has 64 at most
_Conditions = dict[str, dict[str, list[str]]]
_VIA: _Conditions = {"StringEquals": {"aws:CalledViaFirst": ["cloudformation.amazonaws.com"]}}


@dataclass(frozen=True, slots=True)
class DeployerNeeds:
    """Where a deployer works, and the names of its stacks (or patterns of them)."""

    scope: Scope
    stacks: tuple[str, ...] = STACKS

    def named(self, service: str, resource: str) -> list[str]:
        """The ARNs of what is called as the stacks are: `{}` in `resource`."""
        return [self.scope.arn(service, resource.format(stack)) for stack in self.stacks]

    def made(self, service: str, resource: str = "{}") -> list[str]:
        """The ARNs of what CloudFormation names: by the stack's name, the resource's, and some letters."""
        return [self.scope.arn(service, resource.format(_begins(stack))) for stack in self.stacks]

    @property
    def roles(self) -> list[str]:
        """The stacks' roles."""
        return [self.scope.role(arn.rpartition(":")[2]) for arn in self.made("iam")]


def _begins(stack: str) -> str:
    """What the names begin with. CloudFormation shortens a long stack's name where a name would be too long."""
    if stack.endswith("*"):
        return stack
    return f"{stack}-*" if len(stack) <= _KEPT else f"{stack[:_KEPT]}*"


def deployer(needs: DeployerNeeds) -> list[Statement]:
    """All that `ecs-worker deploy` can do."""
    return [*deploying(needs), *optional(needs)]


def deploying(needs: DeployerNeeds) -> list[Statement]:
    """To deploy a worker into a network that is there: change its stack, and tell how it is."""
    return [*_commands(needs), *_resources(needs)]


def _commands(needs: DeployerNeeds) -> list[Statement]:
    """What the commands ask for themselves."""
    scope = needs.scope
    return [
        allow(
            "ChangeStacks",
            (
                "cloudformation:CreateChangeSet",
                "cloudformation:DescribeChangeSet",
                "cloudformation:ExecuteChangeSet",
                "cloudformation:DeleteChangeSet",
                "cloudformation:DescribeStackEvents",
                "cloudformation:GetTemplate",
                "cloudformation:DeleteStack",
                "cloudformation:TagResource",
            ),
            # Where a change set is named by its ARN, that one is checked; they are all called alike.
            [*needs.named("cloudformation", "stack/{}/*"), scope.arn("cloudformation", "changeSet/ecs-worker-*/*")],
        ),
        allow("FindStacks", "cloudformation:DescribeStacks", "*"),  # of a stack that is not there, or of all
        allow(
            "KeepPrefectsCredentials",
            (
                "secretsmanager:CreateSecret",
                "secretsmanager:DescribeSecret",
                "secretsmanager:GetSecretValue",
                "secretsmanager:PutSecretValue",
                "secretsmanager:RestoreSecret",
                "secretsmanager:DeleteSecret",
                "secretsmanager:TagResource",
            ),
            needs.named("secretsmanager", "secret:ecs-worker/{}/*"),
        ),
        # Those that are named in the options.
        allow("FindOtherSecrets", "secretsmanager:DescribeSecret", scope.arn("secretsmanager", "secret:*")),
        allow(
            "FindTheNetwork",
            (
                "ec2:DescribeVpcs",
                "ec2:DescribeSubnets",
                "ec2:DescribeRouteTables",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSecurityGroupRules",
                "ec2:DescribeAvailabilityZones",
            ),
            "*",
        ),
        allow("FindTheCluster", "ecs:DescribeClusters", scope.arn("ecs", "cluster/*")),
        allow(
            "LookAfterTheService",
            ("ecs:DescribeServices", "ecs:UpdateService"),
            needs.made("ecs", "service/*/{}"),
        ),
        allow("FindItsTasks", ("ecs:ListTasks", "ecs:DescribeTaskDefinition"), "*"),
        allow("ReadItsTasks", "ecs:DescribeTasks", scope.arn("ecs", "task/*")),
        allow("ReadAndDeleteItsLog", ("logs:GetLogEvents", "logs:DeleteLogGroup"), _logs(needs)),
    ]


def _resources(needs: DeployerNeeds) -> list[Statement]:
    """What CloudFormation does for a worker's stack."""
    scope = needs.scope
    return [
        allow(
            "MakeRoles",
            (
                "iam:CreateRole",
                "iam:GetRole",
                "iam:UpdateRole",
                "iam:UpdateRoleDescription",
                "iam:UpdateAssumeRolePolicy",
                "iam:DeleteRole",
                "iam:PutRolePolicy",
                "iam:GetRolePolicy",
                "iam:ListRolePolicies",
                "iam:ListAttachedRolePolicies",
                "iam:DeleteRolePolicy",
                "iam:TagRole",
                "iam:UntagRole",
            ),
            needs.roles,
            _VIA,
        ),
        allow("GiveTheWorkerItsRoles", "iam:PassRole", needs.roles, _with({"iam:PassedToService": [ECS_TASKS]})),
        allow(
            "MakeTheRoleOfEcsItself",
            "iam:CreateServiceLinkedRole",
            scope.role(f"aws-service-role/{ECS}/AWSServiceRoleForECS"),
            {"StringEquals": {"iam:AWSServiceName": [ECS]}},
        ),
        # They know no resources.
        allow("MakeClustersAndDeregister", ("ecs:CreateCluster", "ecs:DeregisterTaskDefinition"), "*", _VIA),
        allow(
            "RunTheWorker",
            (
                "ecs:PutClusterCapacityProviders",
                "ecs:UpdateCluster",
                "ecs:DeleteCluster",
                "ecs:RegisterTaskDefinition",
                "ecs:CreateService",
                "ecs:DeleteService",
                "ecs:DescribeServiceDeployments",
                "ecs:ListServiceDeployments",
                "ecs:TagResource",
                "ecs:UntagResource",
                "ecs:ListTagsForResource",
            ),
            [
                *needs.made("ecs", "cluster/{}"),
                *needs.named("ecs", "task-definition/{}:*"),
                *needs.made("ecs", "service/*/{}"),
                *needs.made("ecs", "service-deployment/*/{}/*"),
            ],
            _VIA,
        ),
        allow(
            "MakeSecurityGroups",
            (
                "ec2:CreateSecurityGroup",
                "ec2:DeleteSecurityGroup",
                "ec2:AuthorizeSecurityGroupIngress",
                "ec2:AuthorizeSecurityGroupEgress",
                "ec2:RevokeSecurityGroupIngress",
                "ec2:RevokeSecurityGroupEgress",
                "ec2:CreateTags",
                "ec2:DeleteTags",
            ),
            (
                scope.arn("ec2", "security-group/*"),
                scope.arn("ec2", "security-group-rule/*"),
                scope.arn("ec2", "vpc/*"),
            ),
            _VIA,
        ),
        allow(
            "MakeTheLog",
            (
                "logs:CreateLogGroup",
                "logs:DeleteLogGroup",
                "logs:PutRetentionPolicy",
                "logs:DeleteRetentionPolicy",
                "logs:GetDataProtectionPolicy",
                "logs:DescribeIndexPolicies",
                "logs:PutMetricFilter",
                "logs:DescribeMetricFilters",
                "logs:DeleteMetricFilter",
                "logs:TagResource",
                "logs:UntagResource",
                "logs:ListTagsForResource",
            ),
            _logs(needs),
            _VIA,
        ),
        # Asked for by a prefix of the name, which isn't checked against one group.
        allow("FindTheLog", "logs:DescribeLogGroups", scope.arn("logs", "log-group:*"), _VIA),
    ]


def optional(needs: DeployerNeeds) -> list[Statement]:
    """For `--alarms`, `--events-queue`, `deploy events` and `--new-vpc`."""
    return [
        allow(
            "MakeAlarms",
            (
                "cloudwatch:PutMetricAlarm",
                "cloudwatch:DescribeAlarms",
                "cloudwatch:DeleteAlarms",
                "cloudwatch:TagResource",
                "cloudwatch:UntagResource",
                "cloudwatch:ListTagsForResource",
            ),
            needs.made("cloudwatch", "alarm:{}"),
            _VIA,
        ),
        allow(
            "MakeTheQueue",
            (
                "sqs:CreateQueue",
                "sqs:GetQueueUrl",
                "sqs:GetQueueAttributes",
                "sqs:SetQueueAttributes",
                "sqs:DeleteQueue",
                "sqs:TagQueue",
                "sqs:UntagQueue",
                "sqs:ListQueueTags",
            ),
            needs.made("sqs"),
            _VIA,
        ),
        allow(
            "MakeTheRule",
            (
                "events:PutRule",
                "events:DescribeRule",
                "events:DeleteRule",
                "events:PutTargets",
                "events:ListTargetsByRule",
                "events:RemoveTargets",
                "events:TagResource",
                "events:UntagResource",
                "events:ListTagsForResource",
            ),
            needs.made("events", "rule/{}"),
            _VIA,
        ),
        *_networks(needs.scope),
    ]


def _networks(scope: Scope) -> list[Statement]:
    """A network's parts have no names by which a stack's could be told."""
    kinds = (
        "vpc",
        "subnet",
        "route-table",
        "internet-gateway",
        "elastic-ip",
        "natgateway",
        "vpc-endpoint",
        "security-group",
        "network-interface",
    )
    return [
        allow(
            "MakeNetworks",
            (
                "ec2:CreateVpc",
                "ec2:ModifyVpcAttribute",
                "ec2:DeleteVpc",
                "ec2:CreateSubnet",
                "ec2:ModifySubnetAttribute",
                "ec2:DeleteSubnet",
                "ec2:CreateRouteTable",
                "ec2:AssociateRouteTable",
                "ec2:DisassociateRouteTable",
                "ec2:DeleteRouteTable",
                "ec2:CreateRoute",
                "ec2:ReplaceRoute",
                "ec2:DeleteRoute",
                "ec2:CreateInternetGateway",
                "ec2:AttachInternetGateway",
                "ec2:DetachInternetGateway",
                "ec2:DeleteInternetGateway",
                "ec2:AllocateAddress",
                "ec2:DisassociateAddress",
                "ec2:ReleaseAddress",
                "ec2:CreateNatGateway",
                "ec2:DeleteNatGateway",
                "ec2:CreateVpcEndpoint",
                "ec2:ModifyVpcEndpoint",
                "ec2:DeleteVpcEndpoints",
                "ec2:CreateTags",
                "ec2:DeleteTags",
            ),
            [scope.arn("ec2", f"{kind}/*") for kind in kinds],
            _VIA,
        ),
        allow(
            "ReadNetworks",
            (
                "ec2:DescribeVpcAttribute",
                "ec2:DescribeNetworkAcls",
                "ec2:DescribeInternetGateways",
                "ec2:DescribeAddresses",
                "ec2:DescribeNatGateways",
                "ec2:DescribeVpcEndpoints",
                "ec2:DescribeVpcEndpointServices",
            ),
            "*",
            _VIA,
        ),
        # The private names of interface endpoints.
        allow("NameEndpoints", "route53:AssociateVPCWithHostedZone", "*", _VIA),
    ]


def _logs(needs: DeployerNeeds) -> list[str]:
    """Some actions are checked against the log group, some against its streams."""
    return needs.made("logs", "log-group:{}") + needs.made("logs", "log-group:{}:*")


def _with(more: dict[str, list[str]]) -> _Conditions:
    return {"StringEquals": {**_VIA["StringEquals"], **more}}
