"""The sandbox's own clock: real time plus an offset, or frozen."""

import time


class Clock:
    """Tells the sandbox's time in epoch seconds (UTC)."""

    def __init__(self, now: float | None = None, *, frozen: bool = False) -> None:
        self._offset = 0.0 if now is None else now - time.time()
        self._frozen_at: float | None = None
        if frozen:
            self._frozen_at = self.now() if now is None else now

    def now(self) -> float:
        """Return the current time in epoch seconds."""
        return time.time() + self._offset if self._frozen_at is None else self._frozen_at

    def second(self) -> int:
        """Return the current whole second: what goes into `last_modified`."""
        return int(self.now())

    @property
    def frozen(self) -> bool:
        """Whether time stands still until it is advanced."""
        return self._frozen_at is not None

    def set(self, epoch: float) -> None:
        """Jump to a time."""
        if self._frozen_at is None:
            self._offset = epoch - time.time()
        else:
            self._frozen_at = epoch

    def advance(self, seconds: float) -> None:
        """Go on (or, when negative, back) by so many seconds."""
        self.set(self.now() + seconds)

    def freeze(self, frozen: bool) -> None:
        """Stop or resume the flow of time at the time it is now."""
        now = self.now()
        self._frozen_at = now if frozen else None
        if not frozen:
            self._offset = now - time.time()
