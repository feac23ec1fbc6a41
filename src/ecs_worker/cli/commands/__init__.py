"""The commands' options and help. A command's module holds its `app`, and imports what it does when it is called."""

from __future__ import annotations

from typing import Any

import typer


def new_app(**given: Any) -> typer.Typer:
    """A Typer app with what all commands share: plain text, and tracebacks as Python writes them."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **given)
