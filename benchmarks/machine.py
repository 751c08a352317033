"""What a measurement was made on: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # `make` makes it, for dlt and the picture
_LIBRARIES = ("psycopg", "msgspec", "httpx2")
_BENCH_LIBRARIES = ("dlt", "pyarrow", "psycopg2-binary")


def facts(server_version: str) -> dict[str, str]:
    """Name and value of everything that a reader needs to judge the figures."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()}, {platform.system()} {platform.release()}",
        "load before": ", ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
        "Python": platform.python_version(),
        "PostgreSQL": server_version,
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "of dlt": _bench_libraries(),
        "commit": _commit(),
    }


def _bench_libraries() -> str:
    if not BENCH_PYTHON.exists():
        return "not installed, not measured"
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([BENCH_PYTHON, "-c", program, *_BENCH_LIBRARIES], capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {found}" for name, found in zip(_BENCH_LIBRARIES, done.stdout.split(), strict=True))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.0f} GB"


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    except FileNotFoundError:
        return "unknown (no git)"
    return (commit or "unknown") + (", with uncommitted changes" if changed else "")
