"""`startlist serve` and `startlist worker`: keep everything fresh without anyone typing."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import nullcontext

import typer

from startlist.cli.app import begin, run
from startlist.config import Settings

LAST_SECOND = 9.5  # after which a process that was told to end is gone


def serve() -> None:
    """Keep all races fresh: each as often as its nearness asks for, every minute on race day.

    Finds new races at 06:00 and 18:00, reads every race at 02:00 (STARTLIST_TIMEZONE). A second serve on the same
    database helps as a worker, and leads when the first one ends. Ends with Ctrl-C or SIGTERM, within ten seconds.

    http://127.0.0.1:9464/healthz tells whether all is well, /metrics the figures for Prometheus; STARTLIST_MONITORING
    names another address, or off.

    Exit status: 0 after SIGTERM; 130 after Ctrl-C; 2 wrong settings, or RunSignup refuses the caller registration.

    Examples:
        startlist serve
        STARTLIST_LOG_FORMAT=json startlist serve
    """
    _work(begin(), leads=True)


def worker() -> None:
    """Help a `serve` that runs on the same database, from this machine or another one.

    Exit status: 0 after SIGTERM; 130 after Ctrl-C; 2 wrong settings, or RunSignup refuses the caller registration.

    Examples:
        startlist worker
    """
    _work(begin(), leads=False)


def _work(settings: Settings, *, leads: bool) -> None:
    received = run(_until_told(settings, leads=leads))
    raise typer.Exit(130 if received == signal.SIGINT else 0)


async def _until_told(settings: Settings, *, leads: bool) -> int:
    from startlist.schedule.worker import Worker
    from startlist.web.monitoring import monitored

    at_work = Worker(settings, leads=leads)
    received: list[int] = []

    def stop(number: int) -> None:
        if received and number == signal.SIGINT:
            os._exit(130)
        received.append(number)
        at_work.stop.set()
        # A database that hangs must not hold up the end: what is due stands there, and nothing is lost.
        loop.call_later(LAST_SECOND, os._exit, 130 if number == signal.SIGINT else 0)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):  # in order: passes under way end at a page
        loop.add_signal_handler(number, stop, number)
    async with monitored(settings) if leads else nullcontext():
        await at_work.run()
    return received[0] if received else signal.SIGTERM
