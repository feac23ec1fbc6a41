"""The secrets of deployed workers."""

from __future__ import annotations

import pytest

from ecs_worker.deploy.credentials import API_KEY, AUTH_STRING, Credential, Step, is_ours, secret_name

ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ecs-worker/one/prefect-api-key-AbCdEf", True),
        ("ecs-worker/two/prefect-api-key-AbCdEf", False),
        ("ecs-worker/one/prefect-auth-string-AbCdEf", False),
        ("ecs-worker/one/prefect-api-key-of-theirs", False),
        ("prefect-api-key-AbCdEf", False),
        ("", False),
    ],
)
def test_only_the_stack_s_own_secret_is_ours(name: str, ours: bool) -> None:
    assert is_ours(ARN + name, "one", API_KEY) is ours


def test_a_credential_is_shown_without_its_value() -> None:
    credential = Credential(AUTH_STRING, secret_name("one", AUTH_STRING), "me:secret", Step.MAKE, "")
    assert "me:" not in repr(credential)
