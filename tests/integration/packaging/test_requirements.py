"""The versions that the project is developed with are among those that it says it works with."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import TOP


def test_the_constraints_are_what_the_requirements_allow() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *extras["demo"], *extras["dev"])]
    lines = (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    outside = [
        str(each)
        for each in wanted
        if each.name != project["name"] and not each.specifier.contains(versions[canonicalize_name(each.name)])
    ]
    assert outside == []


def test_the_demo_s_server_gets_no_sqlalchemy_with_which_it_makes_no_runs_of_schedules_or_stops() -> None:
    """Any dependency may raise it; so it is held by the extra itself."""
    extras = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    [bound] = [each for text in extras["demo"] if (each := Requirement(text)).name == "SQLAlchemy"]
    assert bound.specifier.contains("2.0.37")
    assert not any(bound.specifier.contains(version) for version in ("2.0.38", "2.1.0"))
