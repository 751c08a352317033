"""The README's commands, run as they stand there against a sandbox."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from startlist.sandbox import running
from tests.support import COMMAND

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```sh\n(.+?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]


def test_the_commands_for_a_real_key_work_in_their_order(home: Path, tmp_path: Path) -> None:
    with running() as sandbox:
        (key,) = sandbox.control.partners()
        (race_id,) = key["race_ids"]
        first = min(sandbox.control.summary()["future"][race_id])
        runner = sandbox.control.truth(race_id)["events"][first]["active"][0]["registration_id"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("STARTLIST_", "PG"))}
        env = clean | {
            "PATH": f"{COMMAND.parent}:{clean['PATH']}",
            "STARTLIST_HOME": str(home),
            "STARTLIST_API_URL": sandbox.url,
            "STARTLIST_API_SECRET": key["secret"],
            "PAGER": "cat",
        }
        said: dict[str, str] = {}
        for line in LINES:
            command = line.replace("YOUR_KEY", key["key"]).replace("12345", str(race_id))
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                env=env,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            said[line] = done.stdout
            if line == "startlist sync":
                sandbox.control.assign_bib(runner, 1207)

    def answer(beginning: str) -> str:
        (found,) = [text for line, text in said.items() if line.startswith(beginning)]
        return found

    assert "1 race, about" in answer("startlist sync --dry-run")
    assert "yes" in answer("startlist partner check")
    assert "12 registrations on their start lists" in said["startlist sync"]
    assert "1207" in answer("startlist find 1207")
    assert "→ 1207" in answer("startlist bibs")
    assert "(12 rows)" in answer("startlist db psql")
    assert answer("startlist db url").startswith("postgresql://")


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_first_commands_are_those_that_need_nothing_else(target: str) -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text("utf-8")
    assert f"    make {target}\n" in README
    assert f"\n{target}: " in makefile
