"""What may be shown, and what no message may repeat."""

from __future__ import annotations

from typing import Any

import pytest

from ecs_worker.job.masking import MASK, Redactor, masked


def test_values_under_secret_names_and_passwords_in_urls_are_masked() -> None:
    request = {
        "environment": [
            {"name": "DB_PASSWORD", "value": "hunter2"},
            {"name": "PREFECT_API_AUTH_STRING", "value": "u:hunter2"},
            {"name": "PREFECT_CLIENT_CUSTOM_HEADERS", "value": '{"X": "hunter2"}'},
            {"name": "PLAIN", "value": "shown"},
            {"name": "EMPTY_TOKEN", "value": ""},
            {"name": "URL", "value": "postgresql+asyncpg://me:hunter2@db:5432/x"},
        ],
        "secrets": [{"name": "API_KEY", "valueFrom": "arn:aws:ssm:::parameter/p"}],
        "logConfiguration": {"options": {"splunk-token": "hunter2", "mode": "blocking"}},
        "command": ["curl", "https://u:hunter2@host/"],
        "tags": [{"key": "team", "value": "data"}],
        "cpu": 1,
    }
    shown = masked(request)
    assert "hunter2" not in str(shown)
    assert shown["secrets"] == request["secrets"]
    assert shown["tags"] == request["tags"]
    assert shown["logConfiguration"]["options"] == {"splunk-token": MASK, "mode": "blocking"}
    assert [item["value"] for item in shown["environment"]][3:] == [
        "shown",
        "",
        f"postgresql+asyncpg://me:{MASK}@db:5432/x",
    ]
    assert "hunter2" in str(request), "a copy is masked"


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("DB_PASS", True), ("PASSPHRASE", True), ("GITHUB_PAT", True), ("pat", True), ("PATH", False), ("PATTERN", False)],
)
def test_names_that_sound_secret(name: str, is_secret: bool) -> None:
    shown = masked({"environment": [{"name": name, "value": "hunter2"}]})
    assert shown["environment"][0]["value"] == (MASK if is_secret else "hunter2")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["run", "--token", "hunter2", "--all"], ["run", "--token", MASK, "--all"]),
        (["run", "--api-key=hunter2", "x"], ["run", f"--api-key={MASK}", "x"]),
        (["sh", "-c", "DB_PASS=hunter2 run --token hunter2 x"], ["sh", "-c", f"DB_PASS={MASK} run --token {MASK} x"]),
        (["prefect", "flow-run", "execute", "monkey"], ["prefect", "flow-run", "execute", "monkey"]),
    ],
)
def test_secrets_in_commands(command: Any, shown: Any) -> None:
    assert masked({"command": command}) == {"command": shown}


def test_what_came_out_of_blocks_is_hidden() -> None:
    hidden = Redactor(
        {"value": "long secret", "inner": [{"pin": "12"}], "number": 5}, {"v": "line\nbreak"}, {"none": ""}
    )
    assert hidden.hide("cpu is 'long secret', gpu is 'xlong secrets'") == f"cpu is '{MASK}', gpu is 'x{MASK}s'"
    assert hidden.hide("pin '12' of 4123 in 5") == f"pin '{MASK}' of 4123 in 5"
    assert hidden.hide(f"{'line' + chr(10) + 'break'!r}") == f"'{MASK}'"
    assert Redactor({"v": "<shown>", "w": "hunter2"}, but=["<shown>"]).hide("<shown> hunter2") == f"<shown> {MASK}"
    assert Redactor().hide("all") == "all"
