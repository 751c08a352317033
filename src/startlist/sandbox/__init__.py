"""A local RunSignup: for the demo, for rehearsals and for tests."""

from .control import Control, ControlError
from .server import Sandbox, running
from .world import Settings, World
from .worlds import bulk, demo, small

__all__ = ["Control", "ControlError", "Sandbox", "Settings", "World", "bulk", "demo", "running", "small"]
