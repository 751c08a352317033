"""The example in the client's document runs, and what the document names exists."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from startlist import errors, runsignup
from startlist.sandbox import running

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def test_the_example_prints_the_start_list(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    with running(now=1_796_000_000.0, frozen=True, registrations=12) as sandbox:
        (key,) = sandbox.control.partners()
        sandbox.control.assign_bib(60_000_003, 4711)
        asyncio.run(names["main"](key["key"], key["secret"], sandbox.url))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("100001 ")
    assert len(printed) == 1 + 12
    assert any(line.startswith("  4711 ") for line in printed)


def test_every_error_of_runsignup_is_in_the_document() -> None:
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type))
    leaves = {k.__name__ for k in kinds if issubclass(k, errors.RunSignupError) and not k.__subclasses__()}
    assert {name for name in leaves if f"`{name}`" not in TEXT} == {"BudgetSpent", "CredentialRemoved"}  # of gates


def test_every_public_method_is_in_the_document() -> None:
    methods = {name for name in vars(runsignup.RunSignup) if not name.startswith("_")} - {"aclose"}
    assert {name for name in methods if f"`{name}(" not in TEXT} == set()
