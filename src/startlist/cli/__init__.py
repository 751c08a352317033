"""The command line: one module per group of commands; each parses, calls and prints."""

from startlist.cli.app import main

__all__ = ["main"]
