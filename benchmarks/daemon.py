"""The daemon beside its model: how fast it is free, what two editors cost each other, whether its sockets ever wait.

A daemon of its own, with the models that are on this machine, serves clients of this process. Times are of the wall, so
that the machine's other load, which is printed beside them, shows; where work is compared, also of the daemon's
processor.

    python benchmarks/daemon.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.pop(0)  # this folder, whose attribution.py would be taken for our package of that name

from models import daemon
from models.client import Client
from models.paths import models_dir
from models.protocol import Done, FimPrompt, GenerateRequest, Priority
from models.rendezvous import rendezvous
from models.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

STARCITE = Path(sys.executable).with_name("starcite")
UNLOAD_AFTER_S = 3
TICK_S = 0.002
_INSIDE = ("count", "p50_ms", "p99_ms", "max_ms")  # of the daemon's histogram
_numbers = itertools.count()


def request(lines: int, max_tokens: int = 24, priority: Priority = "interactive") -> GenerateRequest:
    """Return a request about a file that no earlier one had, of about 16 tokens a line."""
    seed = next(_numbers)
    text = "".join(f"def function_{seed}_{i}(value):\n    return value * {i} + {seed}\n\n" for i in range(lines // 3))
    prompt = FimPrompt(
        f"# {os.getpid()} {seed}\n{text}def total_{seed}(values):\n    result = ", "\n    return result\n"
    )
    return GenerateRequest(prompt, max_tokens, (), 60_000.0, 60_000.0, priority=priority)


async def ended(client: Client, wanted: GenerateRequest) -> Done:
    """Return the end of a generation."""
    async for event in client.generate(wanted):
        if isinstance(event, Done):
            return event
    raise AssertionError


async def cancel_to_free(client: Client, rounds: int) -> dict[str, Any]:
    """Cancel long prompts somewhere in their computation, and short ones while they write."""
    times_ms: dict[str, list[float]] = {"prefill": [], "decode": []}
    for _ in range(rounds):
        for part, found in times_ms.items():
            generation = client.generate(request(90, 0) if part == "prefill" else request(3, 500))
            if part == "prefill":
                await asyncio.sleep(random.uniform(0.05, 0.4))  # noqa: S311 - no secret
            else:
                await anext(generation)
            started_s = time.perf_counter()
            await generation.cancel()
            async for event in generation:
                if isinstance(event, Done) and event.finish_reason == "cancelled":
                    found.append((time.perf_counter() - started_s) * 1000)
    status = await client.status()
    inside = {name: round(status["histograms"]["interactive"]["cancel_to_free"][name], 2) for name in _INSIDE}
    return {f"{part}_seen_by_the_client": percentiles(found) for part, found in times_ms.items()} | {"inside": inside}


async def two_editors(one: Client, two: Client, rounds: int) -> dict[str, Any]:
    """Have the same work done by one editor and by two at once, in turn; and ask while the other's prefetch runs."""
    wall: dict[int, list[float]] = {1: [], 2: []}
    processor: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for editors in (1, 2):
            started_s, used_s = time.perf_counter(), processor_s(one.hello.pid)
            clients = (one, two)[:editors]
            await asyncio.gather(*(several(client, 6 // editors) for client in clients))
            wall[editors].append(time.perf_counter() - started_s)
            processor[editors].append(processor_s(one.hello.pid) - used_s)
    queue_ms, first_ms = [], []
    for _ in range(rounds * 4):
        ahead = asyncio.create_task(ended(one, request(90, 8, "prefetch")))
        await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311 - no secret
        done = await ended(two, request(3, 4))
        queue_ms.append(done.timings_ms["queue"])
        first_ms.append(done.timings_ms["time_to_first_token"])
        ahead.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ahead
    return {
        "throughput_of_two_to_one": {
            "wall": round(statistics.median(wall[1]) / statistics.median(wall[2]), 3),
            "processor": round(statistics.median(processor[1]) / statistics.median(processor[2]), 3),
        },
        "wait_for_a_running_prefetch": percentiles(queue_ms),
        "first_token_beside_it": percentiles(first_ms),
    }


async def several(client: Client, count: int) -> None:
    """Ask one thing after the other."""
    for _ in range(count):
        await ended(client, request(12))


def processor_s(pid: int) -> float:
    """Return the processor time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stalls(model: str, seconds: float) -> dict[str, Any]:
    """Run a daemon here, and measure how late its event loop is, idle and while another process has it generate."""
    meeting, ready = rendezvous(model), asyncio.Event()
    serving = asyncio.create_task(daemon.serve(meeting, lambda: daemon.load_engine(model), ready=ready.set))
    await ready.wait()
    client = await Client.connect(model, editor="benchmark", spawn=False)
    await client.loaded()
    idle = await ticks(seconds)
    editor = await asyncio.create_subprocess_exec(sys.executable, __file__, "--editor", "--model", model)
    await asyncio.sleep(1)  # its interpreter starts
    generating = await ticks(seconds)
    editor.terminate()
    await editor.wait()
    await client.shutdown()
    await client.close()
    await serving
    return {"idle": percentiles(idle), "generating": percentiles(generating)}


async def ticks(seconds: float) -> list[float]:
    """Return by how many milliseconds each of many short sleeps was late."""
    found, end_s = [], time.perf_counter() + seconds
    while (started_s := time.perf_counter()) < end_s:
        await asyncio.sleep(TICK_S)
        found.append((time.perf_counter() - started_s - TICK_S) * 1000)
    return found


async def edit(model: str) -> None:
    """Be an editor that asks without a pause until it is ended."""
    client = await Client.connect(model, editor="other", spawn=False)
    while True:
        await ended(client, request(12, 64))


async def initialize(rounds: int) -> dict[str, Any]:
    """Start language servers, and measure from the start of the process to the answer to `initialize`."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"processId": None, "capabilities": {}}}
    body = json.dumps(asked).encode()
    times_ms = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        server = await asyncio.create_subprocess_exec(
            STARCITE, "lsp", "--stdio", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert server.stdin
        assert server.stdout
        server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert (await server.stdout.readline()).startswith(b"Content-Length")
        times_ms.append((time.perf_counter() - started_s) * 1000)
        server.terminate()
        await server.communicate()
    return percentiles(times_ms)


async def unloading(client: Client, model: str) -> dict[str, Any]:
    """Wait until the model is unloaded, and measure what that gives and what the next editor waits."""
    before = await client.status()
    await asyncio.sleep(UNLOAD_AFTER_S)
    async with asyncio.timeout(60):
        while (after := await client.status())["state"] != "unloaded":
            pass  # each turn waits for an answer
    started_s = time.perf_counter()
    newcomer = await Client.connect(model, editor="newcomer", spawn=False)
    await newcomer.loaded()
    reload_ms = (time.perf_counter() - started_s) * 1000
    await newcomer.close()
    return {
        "loaded_mb": round(before["memory_bytes"] / 1e6),
        "unloaded_mb": round(after["memory_bytes"] / 1e6),
        "reload_ms": round(reload_ms),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """Return count, median, 99th percentile and maximum."""
    ranked = sorted(values)
    return {
        "n": len(ranked),
        "p50_ms": round(statistics.median(ranked), 2),
        "p99_ms": round(ranked[int(len(ranked) * 0.99)], 2),
        "max_ms": round(ranked[-1], 2),
    }


async def measure(model: str, *, quick: bool) -> dict[str, Any]:
    """Return all figures, with the machine's load before and after."""
    figures: dict[str, Any] = {"load_before": os.getloadavg()[0], "initialize": await initialize(5 if quick else 15)}
    figures["stall"] = await stalls(model, 6 if quick else 20)
    one, two = [await Client.connect(model, editor=name) for name in ("one", "two")]
    await one.loaded()
    figures["cancel_to_free"] = await cancel_to_free(one, 15 if quick else 50)
    figures["two_editors"] = await two_editors(one, two, 3 if quick else 7)
    figures["unloading"] = await unloading(one, model)
    await one.shutdown()
    await two.close()
    await one.close()
    return figures | {"load_after": os.getloadavg()[0]}


@contextlib.contextmanager
def own_home() -> Iterator[None]:
    """Give a home with the machine's models, whose daemon is nobody else's."""
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a Unix socket's address lies in it
    (home / "models").symlink_to(models_dir())
    os.environ |= {"STARCITE_HOME": str(home), daemon.UNLOAD_VARIABLE: str(UNLOAD_AFTER_S)}
    try:
        yield
    finally:
        shutil.rmtree(home)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the rounds")
    parser.add_argument("--model", default=Store(models_dir()).current(), help="the model (default: the one in use)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--editor", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.editor:
        asyncio.run(edit(options.model))
        return
    with own_home():
        figures = asyncio.run(measure(options.model, quick=options.quick))
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
