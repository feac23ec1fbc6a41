"""The template for those who deploy by themselves: the same as JSON, as a Terraform module, and its queue alone."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
from cfnlint.decode import decode

from ecs_worker.deploy import exports, terraform
from ecs_worker.deploy.template import document
from support import stacks
from support.embedded import Aws, fresh
from support.paths import TOP

DOCUMENT = document(stacks.TEMPLATE)
SERVICE = terraform.files("ecs-worker", stacks.TEMPLATE)
EVENTS = terraform.files("ecs-worker-events", exports.as_yaml(exports.events_only(DOCUMENT)))
MODULES = [
    pytest.param(SERVICE, DOCUMENT, id="service"),
    pytest.param(EVENTS, exports.events_only(DOCUMENT), id="events"),
]


def lint(template: Path) -> str:
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--include-checks", "I", "--", str(template)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def as_cfn_lint_reads(path: Path) -> Any:
    template, faults = decode(str(path))
    assert not faults
    return json.loads(json.dumps(template, default=str))


def test_the_template_as_json_is_the_template(tmp_path: Path) -> None:
    written, original = tmp_path / "template.json", tmp_path / "template.yaml"
    written.write_text(exports.as_json(DOCUMENT), encoding="utf-8")
    original.write_text(stacks.TEMPLATE, encoding="utf-8")
    assert as_cfn_lint_reads(written) == as_cfn_lint_reads(original)
    for body in (stacks.TEMPLATE, exports.as_json(DOCUMENT)):
        assert len(body.encode()) <= exports.LONGEST_BODY


def test_the_queue_alone_is_what_cloudformation_knows(tmp_path: Path) -> None:
    alone = exports.events_only(DOCUMENT)
    for name, text in (("events.json", exports.as_json(alone)), ("events.yaml", exports.as_yaml(alone))):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert lint(path) == ""
        assert document(text) == alone
    path.write_text(text.replace("VisibilityTimeout", "VisibleTimeout"), encoding="utf-8")
    assert "VisibleTimeout" in lint(path), "a slip would be noticed"


@pytest.mark.anyio
@pytest.mark.parametrize("given", [False, True], ids=["all clusters", "one cluster"])
async def test_the_queue_alone_gets_the_same_events_as_the_worker_s(aws: Aws, given: bool) -> None:
    """And, if it is told, only those of one cluster."""
    name = fresh("events")
    cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/mine" if given else ""
    body = exports.as_json(exports.events_only(DOCUMENT))
    values = stacks.parameters({"ClusterArn": cluster, "QueueName": name if given else ""})
    await aws.cloudformation.create_stack(StackName=name, TemplateBody=body, Parameters=values)
    made = stacks.outputs(await stacks.settles(aws, name, "CREATE_COMPLETE"))
    assert made["EventsQueueUrl"].rpartition("/")[2] == made["EventsQueueName"]
    assert (await aws.sqs.get_queue_url(QueueName=made["EventsQueueName"]))["QueueUrl"]
    assert not given or made["EventsQueueName"] == name
    rules = (await aws.events.list_rules(NamePrefix=name))["Rules"]
    pattern = json.loads(rules[0]["EventPattern"])
    wanted = json.loads(json.dumps(DOCUMENT["Resources"]["Rule"]["Properties"]["EventPattern"]))
    if given:
        wanted["detail"]["clusterArn"] = [cluster]
    assert pattern == wanted
    await aws.cloudformation.delete_stack(StackName=name)
    with pytest.raises(aws.sqs.exceptions.QueueDoesNotExist):
        await aws.sqs.get_queue_url(QueueName=made["EventsQueueName"])


def test_the_example_of_a_queue_is_current() -> None:
    sys.path.insert(0, str(TOP / "docs"))
    try:
        import events  # noqa: PLC0415 - a script, importable from its own directory only
    finally:
        sys.path.pop(0)
    assert events.PAGE.read_text(encoding="utf-8") == events.page(), "run `make docs`"


# Terraform ---------------------------------------------------------------------------------------------------


def blocks(module: dict[str, str], file: str, kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of a kind, by name, their texts without quotes."""
    read = hcl2.load(io.StringIO(module[file]))
    return {unquoted(name): plain(body) for each in read[kind] for name, body in each.items()}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {unquoted(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return unquoted(value) if isinstance(value, str) else value


def unquoted(text: str) -> str:
    """A text as HCL means it; an expression, which the parser gives as `${…}`, as it stands."""
    return str(json.loads(text)) if text.startswith('"') else text


@pytest.mark.parametrize(("module", "template"), MODULES)
def test_the_module_has_a_variable_for_each_parameter(module: dict[str, str], template: dict[str, Any]) -> None:
    variables = blocks(module, "variables.tf", "variable")
    (stack,) = hcl2.load(io.StringIO(module["main.tf"]))["resource"]
    made = plain(stack)["aws_cloudformation_stack"]["this"]
    assert made["template_body"] == '${file("${path.module}/template.yaml")}'
    assert (made["name"], made["tags"]) == ("${var.stack_name}", "${var.tags}")
    assert ("capabilities" in made) == any(each["Type"] == "AWS::IAM::Role" for each in template["Resources"].values())
    assert set(made["parameters"]) == set(template["Parameters"])
    assert set(variables) == {terraform.snake(name) for name in template["Parameters"]} | {"stack_name", "tags"}
    for name, declared in template["Parameters"].items():
        variable = variables[terraform.snake(name)]
        value = f"var.{terraform.snake(name)}"
        assert variable["description"].startswith(declared["Description"])
        assert variable["nullable"] is False
        default = declared.get("Default")
        match variable["type"]:
            case "${list(string)}":
                assert made["parameters"][name] == f'${{join(",", {value})}}'
                assert ",".join(variable["default"]) == default
            case "bool":
                assert made["parameters"][name] == f"${{tostring({value})}}"
                assert str(variable["default"]).lower() == default
            case "number":
                assert (declared["Type"], made["parameters"][name]) == ("Number", f"${{tostring({value})}}")
                assert variable["default"] == default
            case "string":
                assert made["parameters"][name] == f"${{{value}}}"
                assert variable.get("default") == default
            case other:
                pytest.fail(f"{name} has the type {other}")


@pytest.mark.parametrize(("module", "template"), MODULES)
def test_a_variable_takes_what_its_parameter_takes(module: dict[str, str], template: dict[str, Any]) -> None:
    variables = blocks(module, "variables.tf", "variable")
    for name, declared in template["Parameters"].items():
        variable = variables[terraform.snake(name)]
        rules = variable.get("validation", [])
        condition = rules[0]["condition"] if rules else ""
        if pattern := declared.get("AllowedPattern"):
            (regex,) = re.findall(r'regex\(("(?:[^"\\]|\\.)*"), ', condition)
            assert json.loads(regex) == f"^(?:{pattern})$"
        if (allowed := declared.get("AllowedValues")) and variable["type"] != "bool":
            (values,) = re.findall(r"contains\((\[.*?\]), ", condition)
            assert json.loads(values) == allowed
        if "MinValue" in declared:
            assert f">= {declared['MinValue']}" in condition
        if rule := declared.get("ConstraintDescription"):
            assert rule in rules[0]["error_message"]
        assert all(each["error_message"].endswith(".") for each in rules), "Terraform wants sentences"
        assert bool(rules) == (
            variable["type"] != "bool" and bool({"AllowedPattern", "AllowedValues", "MinValue"} & set(declared))
        )


@pytest.mark.parametrize(("module", "template"), MODULES)
def test_the_module_has_an_output_for_each_output_and_is_laid_out_for_the_registry(
    module: dict[str, str], template: dict[str, Any]
) -> None:
    outputs = blocks(module, "outputs.tf", "output")
    assert set(outputs) == {terraform.snake(name) for name in template["Outputs"]}
    for name, declared in template["Outputs"].items():
        output = outputs[terraform.snake(name)]
        of_stack = f'aws_cloudformation_stack.this.outputs["{name}"]'
        assert output["value"] == (f"${{try({of_stack}, null)}}" if "Condition" in declared else f"${{{of_stack}}}")
    assert set(module) == {"main.tf", "variables.tf", "outputs.tf", "versions.tf", "README.md", "template.yaml"}
    (requires,) = hcl2.load(io.StringIO(module["versions.tf"]))["terraform"]
    assert plain(requires)["required_providers"][0]["aws"]["source"] == "hashicorp/aws"
    for name in (*template["Parameters"], *template["Outputs"]):
        assert f"| `{terraform.snake(name)}` |" in module["README.md"]
    example = module["README.md"].partition("```hcl\n")[2].partition("```")[0]
    (used,) = hcl2.load(io.StringIO(example))["module"]
    given = next(iter(plain(used).values()))
    needed = {terraform.snake(name) for name, each in template["Parameters"].items() if "Default" not in each}
    assert {name for name in given if not name.startswith("__")} == needed | {"source", "stack_name"}
