"""`startlist sandbox`: a local RunSignup, until it is stopped."""

import gc
import json
import signal
import threading
from types import FrameType
from typing import Annotated, Any

import typer

from startlist.sandbox import Sandbox, World, bulk, demo, running

_SECONDS_HELP = "epoch seconds that the sandbox's clock starts at; default: the real time"


def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8808,
    seed: Annotated[int, typer.Option(help="the same seed and day make the same world")] = 1,
    now: Annotated[float | None, typer.Option(help=_SECONDS_HELP)] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="the sandbox's clock stands still")] = False,
    partners: Annotated[int, typer.Option(min=1, help="timing partners")] = 13,
    races_per_partner: Annotated[float, typer.Option(min=0.1, help="races of a partner, on average")] = 8.5,
    registrations: Annotated[
        int | None, typer.Option(min=1, help="so many, spread evenly, in place of the demo's")
    ] = None,
    events_per_race: Annotated[int, typer.Option(min=1, help="with --registrations")] = 1,
    years: Annotated[int, typer.Option(min=1, help="of each race, this one too, with --registrations")] = 1,
    row_bytes: Annotated[int, typer.Option(min=1500, help="JSON of a registration, with --registrations")] = 2000,
    latency: Annotated[float, typer.Option(min=0, help="milliseconds before each answer")] = 0.0,
    latency_jitter: Annotated[float, typer.Option(min=0, help="up to so many milliseconds more")] = 0.0,
    max_concurrent: Annotated[int, typer.Option(min=0, help="calls under way at once; 0: no limit")] = 2,
    calls_per_hour: Annotated[int | None, typer.Option(min=1, help="of each key; default: no limit")] = None,
    registration_required: Annotated[
        bool, typer.Option("--registration-required", help="calls without a caller registration are refused")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one object: address, keys, counts")] = False,
) -> None:
    """Run a local RunSignup with made-up timing partners, races and registrations, until Ctrl-C.

    Examples:
        startlist sandbox
        startlist sandbox --port 0 --json                for a script
        startlist sandbox --partners 1 --registrations 200000
    """
    stopped_by = _listen_for_signals()
    world = World(seed=seed, now=now, frozen=freeze)
    if registrations is None:
        demo(world, partners=partners, races_per_partner=races_per_partner)
    else:
        races = max(partners, round(partners * races_per_partner))
        bulk(
            world,
            registrations=registrations,
            races=races,
            events_per_race=events_per_race,
            partners=partners,
            years=years,
            row_bytes=row_bytes,
        )
    # Hundreds of thousands of objects that stay: not to be looked through again and again.
    gc.collect()
    gc.freeze()
    try:
        with running(
            world,
            port=port,
            latency_ms=latency,
            latency_jitter_ms=latency_jitter,
            max_concurrent=max_concurrent or None,
            calls_per_hour=calls_per_hour,
            registration_required=registration_required,
        ) as started:
            typer.echo(json.dumps(_facts(started)) if as_json else _introduction(started))
            number = stopped_by()
    except OSError as error:
        typer.echo(f"cannot listen on 127.0.0.1 port {port}: {error.strerror}; another --port, or 0, helps", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(128 + number)


class _Signals:
    """Waits for SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self._number = 0
        self._arrived = threading.Event()

    def arrive(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._arrived.set()

    def __call__(self) -> int:
        self._arrived.wait()
        return self._number


def _listen_for_signals() -> _Signals:
    signals = _Signals()
    signal.signal(signal.SIGINT, signals.arrive)
    signal.signal(signal.SIGTERM, signals.arrive)
    return signals


def _facts(started: Sandbox) -> dict[str, Any]:
    summary = started.control.summary()
    summary.pop("future")
    registration, secret = started.control.registration()
    return {
        "url": started.url,
        "port": started.port,
        "partners": started.control.partners(),
        "registration": {"rsu_api_reg": registration, "secret": secret},
        "summary": summary,
    }


def _introduction(started: Sandbox) -> str:
    facts = _facts(started)
    summary, keys = facts["summary"], facts["partners"]
    first = keys[0]
    width = max(len(key["name"]) for key in keys)
    address = started.url.removesuffix("/rest")
    query = f"format=json&api_key={first['key']}&api_secret={first['secret']}"
    return "\n".join(
        [
            f"Sandbox at {started.url}: {summary['partners']} timing partners, {summary['races']:,} races,"
            f" {summary['events']:,} events ({summary['future_events']:,} to come),"
            f" {summary['registrations']:,} registrations.",
            "",
            f"{'timing partner':<{width}}  {'kind':<6}  {'key':<32}  secret",
            *(f"{key['name']:<{width}}  {key['type']:<6}  {key['key']:<32}  {key['secret']}" for key in keys),
            "",
            "Try, in another terminal:",
            f"  export STARTLIST_API_URL={started.url}",
            f'  STARTLIST_API_SECRET={first["secret"]} startlist partner add "{first["partner"]}"'
            f" --api-key {first['key']}",
            "  startlist sync",
            f"  curl '{started.url}/races?{query}&events=T'",
            f"  curl -X POST {address}/_sandbox/hour_of_life",
            f"  curl '{address}/_sandbox/log?counts'",
            "",
            "Ctrl-C ends it.",
        ]
    )
