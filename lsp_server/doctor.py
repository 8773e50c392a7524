"""What works on this machine, what does not, and the one thing to do about it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attribution.errors import AttributionError, PolicyError
from attribution.index import Index
from attribution.policy import Policies
from lsp_server.session import installed_indexes
from models import backends, paths
from models.cards import load_card
from models.client import Client
from models.errors import DaemonUnavailableError, ModelError
from models.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `action` is empty where nothing is to be done."""

    what: str
    good: bool
    fact: str
    action: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as the command prints it."""
        return asdict(self)


def examine() -> tuple[Finding, ...]:
    """Return what was found; nothing is changed, nothing is downloaded, and the daemon is not started."""
    looks: tuple[Callable[[], Finding], ...] = (
        _python,
        _folders,
        _weights,
        _inference,
        _backend,
        _daemon,
        _indexes,
        _policy,
    )
    return tuple(look() for look in looks)


def _python() -> Finding:
    isolated = "isolated" if sys.flags.isolated else "not isolated"
    fact = f"Python {platform.python_version()}, {isolated}, {os.cpu_count()} cores, {sys.executable}"
    action = "" if sys.flags.isolated else "start the installed `starcite` script, which isolates itself"
    return Finding("python", bool(sys.flags.isolated), fact, action)


def _folders() -> Finding:
    folder = paths.data_dir()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("folders", good=False, fact=f"{existing} is read-only", action="set STARCITE_HOME to a folder")
    return Finding("folders", good=True, fact=f"{folder}, {free / 1e9:.0f} GB free; sockets in {paths.runtime_dir()}")


def _weights() -> Finding:
    store = Store(paths.models_dir())
    try:
        card = load_card(store.current())
        store.path(card)
    except ModelError as error:
        return Finding("model", good=False, fact=str(error), action=f"starcite models pull {store.current()}")
    size = sum(file.bytes for file in card.files)
    return Finding("model", good=True, fact=f"{card.id}, {size:,} bytes, {card.license.spdx}")


def _inference() -> Finding:
    try:
        import llama_cpp  # noqa: PLC0415 - it loads a library of 10 MB, and only this look needs it
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(
            "inference", good=False, fact=f"llama-cpp-python: {error}", action="pip install llama-cpp-python"
        )
    return Finding("inference", good=True, fact=f"llama-cpp-python {llama_cpp.__version__} on the CPU")


def _backend() -> Finding:
    store = Store(paths.models_dir())
    try:
        choice = backends.choose(load_card(store.current()), store)
    except ModelError as error:
        return Finding("backend", good=False, fact=str(error), action="starcite models use ID")
    return Finding("backend", good=True, fact=str(choice))


def _daemon() -> Finding:
    async def ask() -> dict[str, Any]:
        client = await Client.connect(Store(paths.models_dir()).current(), editor="", spawn=False)
        try:
            return await client.status()
        finally:
            await client.close()

    try:
        status = asyncio.run(ask())
    except DaemonUnavailableError:
        return Finding("daemon", good=True, fact="not running; whoever needs it starts it")
    except ModelError as error:
        return Finding("daemon", good=False, fact=str(error), action="starcite daemon stop")
    failed = status.get("state") == "failed"
    fact = f"{status.get('state')}, process {status.get('pid')}"
    return Finding(
        "daemon", not failed, f"{fact}: {status.get('error')}" if failed else fact, "starcite daemon stop" * failed
    )


def _indexes() -> Finding:
    folders = installed_indexes()
    if not folders:
        return Finding("indexes", good=False, fact="none: suggestions are not checked", action=_BUILD)
    facts = []
    for folder in folders:
        try:
            with Index.open(folder) as index:
                facts.append(f"{folder.name}: {index.summary['documents']:,} documents")
        except AttributionError as error:
            return Finding("indexes", good=False, fact=str(error), action=_BUILD)
    return Finding("indexes", good=True, fact="; ".join(facts))


def _policy() -> Finding:
    try:
        policy = Policies().of(Path.cwd())
    except PolicyError as error:
        return Finding("policy", good=False, fact=str(error), action="mend it; until then every match is blocked")
    decisions = ", ".join(f"{name} {decision}" for name, decision in policy.to_json()["classes"].items())
    return Finding("policy", good=True, fact=f"{policy.file or 'no starcite.toml here'}: {decisions}")


_BUILD = "starcite index build SRC… --name NAME"
