"""From resources to statements, and how they are written."""

from __future__ import annotations

import pytest

from ecs_worker.iam.policy import allow, as_terraform, document
from ecs_worker.iam.rights import ExecutionNeeds, Scope, WorkerNeeds, execution, trust, worker

HERE = Scope("aws", "eu-west-1", "123456789012")


def test_who_needs_nothing_is_given_nothing() -> None:
    assert worker(WorkerNeeds()) == execution(ExecutionNeeds()) == []


def test_needs_add_up() -> None:
    one, other = WorkerNeeds(clusters=frozenset("a")), WorkerNeeds(clusters=frozenset("b"), deregisters=True)
    assert one | other == WorkerNeeds(clusters=frozenset("ab"), deregisters=True)


def test_resources_may_be_parameters_of_cloudformation() -> None:
    scope = Scope("${AWS::Partition}", "${AWS::Region}", "${AWS::AccountId}")
    needs = WorkerNeeds(clusters=frozenset({scope.cluster("${Cluster}")}), task_roles=frozenset({scope.role("flows")}))
    policy = str(document(worker(needs)))
    assert "arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/${Cluster}/*" in policy
    assert "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/flows" in policy


@pytest.mark.parametrize(
    ("name", "arn"),
    [
        ("flow", "arn:aws:ecs:eu-west-1:123456789012:task-definition/flow:*"),
        ("flow:3", "arn:aws:ecs:eu-west-1:123456789012:task-definition/flow:3"),
        ("arn:aws:ecs:us-east-1:1:task-definition/flow", "arn:aws:ecs:us-east-1:1:task-definition/flow:*"),
        ("arn:aws:ecs:us-east-1:1:task-definition/flow:3", "arn:aws:ecs:us-east-1:1:task-definition/flow:3"),
    ],
)
def test_a_task_definition_without_a_revision_means_all_of_them(name: str, arn: str) -> None:
    assert HERE.definition(name) == arn


@pytest.mark.parametrize(
    ("name", "checked"),
    [("token", ["token-??????"]), ("token-a1B2c3", ["token-a1B2c3"]), ("my-secret", ["my-secret", "my-secret-??????"])],
)
def test_a_secrets_name_may_lack_its_random_end(name: str, checked: list[str]) -> None:
    stem = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
    assert HERE.secrets(f"{stem}{name}") == tuple(stem + each for each in checked)
    assert HERE.secrets(f"{stem}{name}:key:AWSCURRENT:") == HERE.secrets(f"{stem}{name}")


def test_terraform_reads_no_templates_into_values() -> None:
    statements = [
        allow("A", ("a:b", "a:c"), 'arn:${x}%{y}"', {"StringEquals": {"k": ["1", "2"]}}),
        allow("B", "a:d", "*"),
    ]
    assert as_terraform("name", statements) == (
        'data "aws_iam_policy_document" "name" {\n'
        "  statement {\n"
        '    sid = "A"\n'
        "    actions = [\n"
        '      "a:b",\n'
        '      "a:c",\n'
        "    ]\n"
        "    resources = [\n"
        '      "arn:$${x}%%{y}\\"",\n'
        "    ]\n"
        "\n"
        "    condition {\n"
        '      test     = "StringEquals"\n'
        '      variable = "k"\n'
        "      values = [\n"
        '        "1",\n'
        '        "2",\n'
        "      ]\n"
        "    }\n"
        "  }\n"
        "\n"
        "  statement {\n"
        '    sid = "B"\n'
        "    actions = [\n"
        '      "a:d",\n'
        "    ]\n"
        "    resources = [\n"
        '      "*",\n'
        "    ]\n"
        "  }\n"
        "}"
    )


def test_a_trust_policy_is_for_one_service() -> None:
    [statement] = trust("ecs.amazonaws.com")["Statement"]
    assert statement == {"Effect": "Allow", "Principal": {"Service": "ecs.amazonaws.com"}, "Action": "sts:AssumeRole"}
