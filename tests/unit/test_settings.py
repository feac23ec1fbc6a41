from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ecs_worker.errors import UserError
from ecs_worker.settings import JobDefaults, JobSettings, PrefectSettings, WorkerSettings, load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - only to empty it

    for name in list(os.environ):
        if name.startswith(("PREFECT", "ECS_WORKER")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def profiles(tmp_path: Path, text: str) -> None:
    (tmp_path / "profiles.toml").write_text(text, encoding="utf-8")


def test_every_setting_has_a_description() -> None:
    for model in (WorkerSettings, PrefectSettings):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_options_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_POOL", "from-variable")
    monkeypatch.setenv("ECS_WORKER_LIMIT", "3")
    monkeypatch.setenv("ECS_WORKER_WORK_QUEUES", "a, b c,")
    settings = load(WorkerSettings, pool="from-option", limit=None)
    assert (settings.pool, settings.limit, settings.work_queues) == ("from-option", 3, ("a", "b c"))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ECS_WORKER_LIMIT", "0", "ECS_WORKER_LIMIT is '0': input should be greater than or equal to 1."),
        ("ECS_WORKER_LIMIT", "many", "ECS_WORKER_LIMIT is 'many': input should be a valid integer"),
        ("ECS_WORKER_TYPE", "process", "ECS_WORKER_TYPE is 'process', but this worker only serves pools of type 'ecs'"),
        (
            "ECS_WORKER_NAME",
            "a/b",
            "ECS_WORKER_NAME is 'a/b', which can't be used: This worker's name, shown in the Prefect UI; '/' and",
        ),
        ("ECS_WORKER_HEALTH_ADDRESS", "8080", "ECS_WORKER_HEALTH_ADDRESS is '8080'; it should be HOST:PORT"),
        ("ECS_WORKER_LOG_LEVEL", "loud", "ECS_WORKER_LOG_LEVEL is 'LOUD'"),
        (
            "ECS_WORKER_LAUNCH_TYPE",
            "MANAGED_INSTANCES",
            "ECS_WORKER_LAUNCH_TYPE is 'MANAGED_INSTANCES', but Managed Instances are reached by a capacity provider",
        ),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    monkeypatch.setenv("ECS_WORKER_POOL", "p")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as error:
        load(WorkerSettings)
    assert says in str(error.value)


def test_a_bad_option_is_named_as_the_option() -> None:
    with pytest.raises(UserError, match=r"^--limit is -1: "):
        load(WorkerSettings, pool="p", limit=-1)


def test_a_bad_setting_that_is_a_variable_only_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_HEARTBEAT_SECONDS", "0")
    with pytest.raises(UserError, match=r"^ECS_WORKER_HEARTBEAT_SECONDS is '0': "):
        load(WorkerSettings, pool="p")


def test_only_settings_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_CLUSTER", "c")
    assert load(JobSettings).cluster == "c"
    assert JobDefaults() == JobDefaults(cluster=None)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(UserError) as error:
        load(WorkerSettings, pool="p", limit=0, type="docker")
    assert "--limit" in str(error.value)
    assert "--type" in str(error.value)


def test_a_missing_pool_says_what_to_do() -> None:
    with pytest.raises(UserError, match="--pool is missing: give it, or set ECS_WORKER_POOL"):
        load(WorkerSettings)


def test_the_active_profile_is_read(tmp_path: Path) -> None:
    profiles(
        tmp_path,
        'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://127.0.0.1:4200/api/"\n'
        'PREFECT_API_KEY = "pnu_profile"\nPREFECT_CLIENT_CUSTOM_HEADERS = \'{"X-Team": "data"}\'\n'
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY = true\nPREFECT_LOGGING_LEVEL = 'DEBUG'\n",
    )
    settings = load(PrefectSettings)
    assert settings.api_url == "http://127.0.0.1:4200/api"
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "pnu_profile"
    assert settings.client_custom_headers == {"X-Team": "data"}
    assert settings.api_tls_insecure_skip_verify
    assert settings.inherited["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert settings.inherited["PREFECT_API_KEY"] == "pnu_profile"


def test_variables_win_over_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(tmp_path, 'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://a/api"\nPREFECT_API_KEY = "a"\n')
    monkeypatch.setenv("PREFECT_API_URL", "http://b/api")
    settings = load(PrefectSettings)
    assert settings.api_url == "http://b/api"
    assert settings.inherited["PREFECT_API_URL"] == "http://b/api"
    assert settings.inherited["PREFECT_API_KEY"] == "a"


def test_another_profile_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(tmp_path, 'active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\n')
    monkeypatch.setenv("PREFECT_PROFILE", "b")
    assert load(PrefectSettings).api_url == "http://b/api"
    monkeypatch.setenv("PREFECT_PROFILE", "c")
    with pytest.raises(UserError, match=r"PREFECT_PROFILE is 'c', but .* has no such profile \(it has: a, b\)"):
        load(PrefectSettings)


def test_a_broken_profile_file_is_named(tmp_path: Path) -> None:
    profiles(tmp_path, "active = [")
    with pytest.raises(UserError, match=r"profiles\.toml can't be read: .*name another in PREFECT_PROFILES_PATH"):
        load(PrefectSettings)


def test_what_describes_this_machine_does_not_reach_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PREFECT_PROFILE",
        "PREFECT_WORKER_QUERY_SECONDS",
        "PREFECT_SERVER_API_AUTH_STRING",
        "PREFECT__FLOW_RUN_ID",
        "PREFECT_API_SSL_CERT_FILE",
    ):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    assert load(PrefectSettings).inherited == {"PREFECT_LOGGING_LEVEL": "DEBUG"}


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    assert "secret" not in repr(load(PrefectSettings))


def test_a_bad_url_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "localhost:4200")
    with pytest.raises(UserError, match="PREFECT_API_URL is 'localhost:4200', which is no http"):
        load(PrefectSettings)


def test_bad_custom_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", "not json")
    with pytest.raises(UserError, match="PREFECT_CLIENT_CUSTOM_HEADERS"):
        load(PrefectSettings)
    monkeypatch.delenv("PREFECT_CLIENT_CUSTOM_HEADERS")
    profiles(tmp_path, "active = 'a'\n[profiles.a]\nPREFECT_CLIENT_CUSTOM_HEADERS = 'not json'\n")
    with pytest.raises(UserError, match="PREFECT_CLIENT_CUSTOM_HEADERS"):
        load(PrefectSettings)


def test_the_intervals_of_prefect_s_own_worker_count_where_ours_are_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profiles(tmp_path, "active = 'a'\n[profiles.a]\nPREFECT_WORKER_QUERY_SECONDS = '4'\n")
    monkeypatch.setenv("PREFECT_WORKER_PREFETCH_SECONDS", "30")
    settings = load(WorkerSettings, pool="p")
    assert (settings.query_seconds, settings.prefetch_seconds) == (4, 30)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "5")
    monkeypatch.setenv("ECS_WORKER_PREFETCH_SECONDS", "31")
    settings = load(WorkerSettings, pool="p")
    assert (settings.query_seconds, settings.prefetch_seconds) == (5, 31)
    assert load(WorkerSettings, pool="p", query_seconds=6).query_seconds == 6
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "often")
    with pytest.raises(UserError, match=r"^PREFECT_WORKER_QUERY_SECONDS is 'often':"):
        load(WorkerSettings, pool="p")
    monkeypatch.setenv("ECS_WORKER_QUERY_SECONDS", "seldom")
    with pytest.raises(UserError, match=r"^ECS_WORKER_QUERY_SECONDS is 'seldom':"):
        load(WorkerSettings, pool="p")


def test_worker_wide_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECS_WORKER_ENV", '{"A": "1,2", "B": "="}')
    monkeypatch.setenv("ECS_WORKER_LABELS", "team=data, stage=prod=1")
    settings = load(WorkerSettings, pool="p", task_definition="s3://bucket/key.yaml")
    assert settings.env == {"A": "1,2", "B": "="}
    assert settings.labels == {"team": "data", "stage": "prod=1"}
    assert load(WorkerSettings, pool="p", env=["C=x,y"]).env == {"C": "x,y"}
    (tmp_path / "task.yaml").write_text("{}")
    assert load(WorkerSettings, pool="p", task_definition=str(tmp_path / "task.yaml")).task_definition


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"env": ["hunter2"]}, "--env has an item that is not KEY=VALUE."),
        ({"labels": ["=x"]}, "--label has an item that is not KEY=VALUE."),
        ({"run_task_kwargs": "absent.yaml"}, "--run-task-kwargs is 'absent.yaml', but there is no such file"),
        ({"launch_type": "MOON"}, "--launch-type is 'MOON'"),
    ],
)
def test_worker_wide_defaults_that_can_t_be_used(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load(WorkerSettings, pool="p", **given)
    assert sentence in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_broken_variable_does_not_tell_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECS_WORKER_ENV", '{"A": "hunter2"')
    with pytest.raises(UserError, match=r"^ECS_WORKER_ENV is no JSON object") as error:
        load(WorkerSettings, pool="p")
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("ECS_WORKER_ENV", '{"A": {"B": "hunter2"}}')
    with pytest.raises(UserError, match="ECS_WORKER_ENV") as error:
        load(WorkerSettings, pool="p")
    assert "hunter2" not in str(error.value)
