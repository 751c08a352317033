"""The documents name every command, option and setting that there is, and none that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from startlist.cli.app import build
from startlist.config import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PLAIN = ("--help", "--json")  # told once for all commands
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, by its words."""
    if isinstance(command, TyperGroup):
        if command.invoke_without_command:
            yield path, command
        for name, inner in command.commands.items():
            yield from leaves(inner, f"{path} {name}".strip())
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(build(everything=True))))


def options(name: str) -> set[str]:
    """A command's options in all their spellings, without those that every command has."""
    return {spelt for param in COMMANDS[name].params for spelt in (*param.opts, *param.secondary_opts)
            if spelt.startswith("--")} - set(PLAIN)  # fmt: skip


def sections() -> dict[str, str]:
    """The sections of docs/commands.md by the command that their heading names; one may name two."""
    found: dict[str, str] = {}
    for section in (DOCS / "commands.md").read_text("utf-8").split("\n### ")[1:]:
        heading, text = section.split("\n## ", 1)[0].split("\n", 1)
        for quoted in re.findall("`([^`]+)`", heading.split(":")[0]):
            words = re.match("[a-z]+(?:[ -][a-z]+)*", quoted)
            assert words, heading
            found[words[0]] = heading + "\n" + text
    return found


SECTIONS = sections()


def test_every_command_has_its_section_and_no_other() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_documented(name: str) -> None:
    told = SECTIONS[name]
    if name == "sandbox":
        told += (DOCS / "sandbox.md").read_text("utf-8")
    filters = (DOCS / "commands.md").read_text("utf-8").split("| filter | meaning |")[1].split("\n\n", 1)[0]
    if name in ("races", "find", "status", "history", "changes", "bibs", "bibs lookup"):
        told += filters
    assert options(name) - {"--counts"} <= set(OPTION.findall(told))


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_no_option_is_documented_that_is_not_there(name: str) -> None:
    text = SECTIONS[name]
    alike = [other for other, section in SECTIONS.items() if section == text]
    named = [other for other in COMMANDS if f"startlist {other} " in text]
    known = set().union(*(options(other) for other in [*alike, *named]))
    assert set(OPTION.findall(text)) - set(PLAIN) <= known


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_helps_itself(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [param.name for param in command.params if not getattr(param, "help", None)] == []


def test_the_readme_leads_to_every_document_and_to_none_that_is_not_there() -> None:
    linked = set(re.findall(r"\]\(([^)#:]+)", (ROOT / "README.md").read_text("utf-8")))
    assert [target for target in linked if not (ROOT / target).exists()] == []
    assert {f"docs/{path.name}" for path in DOCS.glob("*.md")} <= linked


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(STARTLIST_[A-Z_]+)` \| ([^|]*) \| [^|]+ \|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    fields = {f"STARTLIST_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert [name for name, _ in rows] == list(fields)
    for name, told in rows:
        default = fields[name].default
        if default is None or fields[name].default_factory is not None:
            assert re.match("none(: .+)?$", told), name
        else:
            assert told == f"`{default}`", name
