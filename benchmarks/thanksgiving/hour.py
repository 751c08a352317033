"""The budget of an API key as `reserve_call` and `free_at` keep it, in memory; a test holds them beside each other."""

from __future__ import annotations

from benchmarks.thanksgiving.world import Credential

WINDOW = 3_605.0  # seconds


def free_at(credential: Credential, now: float, limit: int, ahead: int = 0) -> float | None:
    """When a pass may begin; None: now. `ahead`: so many others are to have their calls before."""
    _forget(credential, now)
    calls = credential.calls
    place = max(limit - 2 * (ahead + 1), 0)
    until = credential.paused_until if credential.paused_until > now else None
    if len(calls) > place:
        spent = calls[len(calls) - 1 - place] + WINDOW
        until = max(until or spent, spent)
    return until


def reserve(credential: Credential, now: float, limit: int, needed: int) -> float | None:
    """Reserve a call, while so many are free; else when to ask again."""
    _forget(credential, now)
    calls = credential.calls
    refused = calls[len(calls) - 1 - (limit - needed)] + WINDOW if len(calls) + needed > limit else None
    if credential.paused_until > (refused or now):
        return credential.paused_until
    if refused is None:
        calls.append(now)
    return refused


def _forget(credential: Credential, now: float) -> None:
    while credential.calls and credential.calls[0] <= now - WINDOW:
        credential.calls.popleft()
