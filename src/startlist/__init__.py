"""Startlist keeps a race-timing company's own PostgreSQL in step with RunSignup."""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    # Looking the version up takes longer than all else that this module does, and few ask.
    if name == "__version__":
        from importlib.metadata import version

        return version("startlist")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
