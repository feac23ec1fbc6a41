"""The template's parameters, and what a stack's own template remembers."""

from __future__ import annotations

import pytest

from ecs_worker.deploy import template
from ecs_worker.deploy.stack import stack_name, tags
from ecs_worker.deploy.template import document
from ecs_worker.deploy.wishes import Gives, Wishes


def test_the_template_remembers_what_to_go_back_to() -> None:
    before = {"Image": "one:1", "ExtraOptions": "--env\nA=1", "PoolName": 'mïne "here"'}
    new = template.remembering(template.text(), before)
    assert template.remembered(new) == before
    assert document(new)["Resources"] == document(template.text())["Resources"]
    assert template.forgetting(new) == template.text()
    assert template.remembered(template.text()) is None
    assert template.remembering(template.text(), None) == template.text()


def test_with_what_it_remembers_it_still_fits_into_a_request() -> None:
    """CreateChangeSet, `TemplateBody`: 51,200 bytes."""
    most = dict.fromkeys(template.parameters(), "x" * 400)
    assert len(template.remembering(template.text(), most).encode()) <= 51_200


def test_every_parameter_can_be_given() -> None:
    by_option = {
        each.parameter for field in Wishes.model_fields.values() for each in field.metadata if isinstance(each, Gives)
    }
    otherwise = {"PoolName", "ClusterArn", "VpcId", "Subnets", "AssignPublicIp", "EventsQueue", "ExtraOptions"}
    assert by_option | otherwise | {"VpcEndpoints"} == template.parameters().keys()


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        ("my-pool", "ecs-worker-my-pool"),
        ("My Pool_2", "ecs-worker-My-Pool-2"),
        ("été", "ecs-worker-ete"),
        ("--", "ecs-worker"),
        ("x" * 200, "ecs-worker-" + "x" * 117),
    ],
)
def test_a_pool_s_stack_has_a_name_that_cloudformation_takes(pool: str, name: str) -> None:
    assert stack_name(pool) == name


def test_tags_stay_the_same_and_are_what_aws_takes() -> None:
    assert tags("My Pool, no. 1") == tags("My Pool, no. 1") == {"ecs-worker:pool": "My-Pool-no.-1"}
