"""The job variables, and the template that follows from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ecs_worker.job.attached import ignored_variables
from ecs_worker.job.template import lookup
from ecs_worker.job.variables import CHANGE_DEFINITION, IN_REQUESTS, default_base_job_template
from support.jobs import TEMPLATES, build, context, load


def test_the_template_asks_for_declared_variables_only() -> None:
    template = default_base_job_template()
    text = json.dumps(template["job_configuration"])
    for name in template["variables"]["properties"]:
        assert f'"{{{{ {name} }}}}"' in text, name
    assert all(prop.get("title") and prop.get("description") for prop in template["variables"]["properties"].values())


SECRET = "arn:aws:secretsmanager:eu-west-1:1:secret:k"
# Each changes the definition and nothing of RunTask.
ONLY_IN_THE_DEFINITION: dict[str, Any] = {
    "family": "mine",
    "image": "a/b:1",
    "prefect_api_key_secret_arn": SECRET,
    "prefect_api_auth_string_secret_arn": SECRET,
    "execution_role_arn": "another",
    "configure_cloudwatch_logs": True,
    "secrets": {"DB": SECRET},
    "cpu_architecture": "ARM64",
    "operating_system_family": "LINUX",
    "gpu": 1,
    "volumes": [{"name": "v", "mount_path": "/v"}],
    "stop_timeout_seconds": 60,
    "linux_init": True,
    "readonly_root_filesystem": False,
    "task_definition_patch": {"pidMode": "task"},
    "container_patch": {"user": "me"},
}
DOCUMENTS = {"task_definition", "task_definition_path"}  # test_attached.py


def test_the_table_has_all_that_change_the_definition() -> None:
    assert ONLY_IN_THE_DEFINITION.keys() | DOCUMENTS == set(CHANGE_DEFINITION)


@pytest.mark.parametrize("variable", ONLY_IN_THE_DEFINITION)
def test_what_changes_the_definition_has_no_effect_on_a_reused_one(variable: str) -> None:
    about = context(inherited_env={})
    plain: dict[str, Any] = {"execution_role_arn": "role", "launch_type": "EC2"}
    variables = plain | {variable: ONLY_IN_THE_DEFINITION[variable]}
    (definition, request), (changed, as_before) = build(plain, about=about), build(variables, about=about)
    assert changed != definition
    assert as_before == request
    configuration = load({"launch_type": "EC2", variable: variables[variable], "task_definition_arn": "f:1"})
    assert ignored_variables(configuration) == [variable]


def test_what_only_the_requests_hold_is_read_there() -> None:
    template = TEMPLATES["ours"]
    for variable, place in IN_REQUESTS.items():
        assert lookup(template["job_configuration"], place) == f"{{{{ {variable} }}}}"
        assert variable not in template["job_configuration"]
    configuration = load({"image": "a/b:1"}, image="{{ image }}")
    assert (configuration.image, configuration.says("image"), load({}).says("image")) == (None, True, False)
