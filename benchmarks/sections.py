"""RESULTS.md: a section for each thing that was measured, each written anew by the run that measured it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ORDER = ("loader", "serving", "tick", "thanksgiving")
_SECTION = re.compile(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", re.DOTALL)


def write(path: Path, measured: Mapping[str, str]) -> None:
    """Put these sections into the file in place of their older ones; others stay as they are."""
    known = dict(_SECTION.findall(path.read_text())) if path.exists() else {}
    texts = {**known, **{name: text.strip("\n") for name, text in measured.items()}}
    parts = [f"<!-- {name} -->\n{texts[name]}\n<!-- /{name} -->" for name in ORDER if name in texts]
    path.write_text("\n\n".join(["# Results", *parts]) + "\n")
