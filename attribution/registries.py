"""The package registries, asked by their clients' own configuration: what a package is, and where its archive lies.

    pypi     the index of pip: releases by its JSON, archives by its simple page (PEP 503); source distributions only
    npm      the registry of npm: tarballs
    debian   the lists of apt: binary packages, of which the -dev ones of Go and Rust hold source

No address of a registry stands here, and nothing of a package is ever installed, imported or run.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attribution import licenses
from attribution.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from http.client import HTTPResponse

TIMEOUT_S = 60
MAX_PAGE_BYTES = 64 << 20
_SDIST = (".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz")
_LINK = re.compile(r'href="([^"#]+)#sha256=([0-9a-f]{64})"')
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Release:
    """An archive as its registry describes it. `sha256`, `sha512`: hexadecimal, at least one of them.

    `stated`: the licence ids of its metadata; `wants`: the packages it asks for, for tests and development too.
    """

    registry: str
    name: str
    version: str
    file: str
    url: str
    sha256: str = ""
    sha512: str = ""
    bytes: int = 0
    stated: frozenset[str] = frozenset()
    wants: tuple[str, ...] = ()


class NotFoundError(RegistryError):
    """A registry does not have a package, or no source archive of it."""


class Registries:
    """The registries that this machine's pip, npm and apt are set up for; asked for at the first use of each."""

    def release(self, registry: str, name: str) -> Release:
        """Return the newest release of a package. Raises `NotFoundError` and `RegistryError`."""
        return {"pypi": self._pypi_release, "npm": self._npm_release, "debian": self._debian_release}[registry](name)

    def address(self, registry: str, name: str, version: str, sha256: str) -> str:
        """Return where the archive of a release lies. Raises `NotFoundError` and `RegistryError`."""
        if registry == "pypi":
            return self._pypi_address(name, sha256)
        if registry == "npm":
            return self._npm_version(name, version).url
        release = self._debian_release(name)
        if release.sha256 != sha256:
            raise NotFoundError(f"apt's lists have {name} {release.version}, and no {version} any more")
        return release.url

    def names(self, registry: str, prefix: str, suffix: str) -> list[str]:
        """Return the names that a registry lists with these ends. Only apt's lists can be asked so."""
        if registry != "debian":
            raise RegistryError(f"{registry} cannot be asked for all names that begin with {prefix!r}; name seeds.")
        return sorted(name for name in self._debian if name.startswith(prefix) and name.endswith(suffix))

    # --- pypi --------------------------------------------------------------------------------------------------------

    @cached_property
    def _simple(self) -> str:
        """The simple index of pip, without the last slash: its environment, its files, or what it is built with."""
        if index := os.environ.get("PIP_INDEX_URL"):
            return index.rstrip("/")
        listed = _said([sys.executable, "-m", "pip", "config", "list"])
        named = re.search(r"^(?:global|install|download|site|user)\.index-url='(.*)'$", listed, re.MULTILINE)
        built_in = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
        index = named[1] if named else _said([sys.executable, "-c", built_in]).strip()
        if not index:
            raise RegistryError("pip does not say which index it uses; set PIP_INDEX_URL, or install pip.")
        return index.rstrip("/")

    def _pypi_release(self, name: str) -> Release:
        page = f"{self._simple.removesuffix('/simple')}/pypi/{_normal(name)}/json"
        found = get_json(page)
        info = found["info"]
        for row in found["urls"]:
            if row["packagetype"] == "sdist" and row["filename"].endswith(_SDIST):
                return Release(
                    "pypi",
                    _normal(info["name"]),
                    info["version"],
                    row["filename"],
                    urllib.parse.urljoin(page, row["url"]),
                    sha256=row["digests"]["sha256"],
                    bytes=int(row["size"]),
                    stated=licenses.from_expression(info.get("license_expression") or "")
                    or licenses.from_classifiers(info.get("classifiers") or []),
                    wants=tuple(dict.fromkeys(_required(info.get("requires_dist") or []))),
                )
        raise NotFoundError(f"{name} has no source distribution")

    def _pypi_address(self, name: str, sha256: str) -> str:
        page = f"{self._simple}/{_normal(name)}/"
        for address, digest in _LINK.findall(get(page).decode("utf-8", "replace")):
            if digest == sha256:
                return urllib.parse.urljoin(page, html.unescape(address))
        raise NotFoundError(f"the index has no archive of {name} with sha256 {sha256} any more")

    # --- npm ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _npm(self) -> str:
        registry = os.environ.get("NPM_CONFIG_REGISTRY") or _said(["npm", "config", "get", "registry"]).strip()
        if not registry:
            raise RegistryError("npm does not say which registry it uses; install npm, or set NPM_CONFIG_REGISTRY.")
        return registry.rstrip("/")

    def _npm_release(self, name: str) -> Release:
        return self._npm_version(name, "latest")

    def _npm_version(self, name: str, version: str) -> Release:
        page = f"{self._npm}/{urllib.parse.quote(name, safe='@')}/{version}"
        about = get_json(page)
        dist = about["dist"]
        integrity = str(dist.get("integrity", ""))
        stated = about.get("license")
        return Release(
            "npm",
            name,
            about["version"],
            f"{name.lstrip('@').replace('/', '-')}-{about['version']}.tgz",
            urllib.parse.urljoin(page, dist["tarball"]),
            sha512=base64.b64decode(integrity[7:]).hex() if integrity.startswith("sha512-") else "",
            stated=licenses.from_expression(stated) if isinstance(stated, str) else frozenset(),
            wants=tuple(about.get("dependencies") or ()) + tuple(about.get("devDependencies") or ()),
        )

    # --- debian ------------------------------------------------------------------------------------------------------

    @cached_property
    def _debian(self) -> dict[str, Release]:
        """Every -dev package of Go and Rust in apt's lists."""
        known = [
            name
            for prefix in ("golang-", "librust-")
            for name in _said(["apt-cache", "pkgnames", prefix]).split()
            if name.endswith("-dev")
        ]
        if not known:
            raise RegistryError(
                "apt has no lists here, so Go and Rust cannot be had; run apt-get update, or --skip debian."
            )
        said = _said(["apt-get", "download", "--print-uris", *known])
        rows = (line.split() for line in said.splitlines())
        return {
            row[1].split("_")[0]: _debian_row(*row[:4]) for row in rows if row[3:4] and row[3].startswith("SHA256:")
        }

    def _debian_release(self, name: str) -> Release:
        if name not in self._debian:
            raise NotFoundError(f"apt's lists have no {name}")
        return self._debian[name]


def _debian_row(address: str, file: str, size: str, digest: str) -> Release:
    name, version = file.split("_")[:2]
    plain = urllib.parse.unquote(version)
    return Release("debian", name, plain, file, address.strip("'"), sha256=digest[7:], bytes=int(size))


def get(address: str) -> bytes:
    """Return a page. Raises `NotFoundError` and `RegistryError`."""
    with opened(address) as answer:
        try:
            page = answer.read(MAX_PAGE_BYTES + 1)
        except OSError as error:
            raise _unreachable(address, error) from error
    if len(page) > MAX_PAGE_BYTES:
        raise RegistryError(f"{address} is larger than {MAX_PAGE_BYTES >> 20} MiB; it is no page of a registry.")
    return page


def get_json(address: str) -> dict[str, Any]:
    """Return a page that is a JSON object. Raises `NotFoundError` and `RegistryError`."""
    try:
        found = json.loads(get(address))
    except ValueError as error:
        raise RegistryError(
            f"{address} is not JSON; the index in your configuration must have the JSON interface."
        ) from error
    if not isinstance(found, dict):
        raise RegistryError(f"{address} is no JSON object; is the index in your configuration a package index?")
    return found


def opened(address: str) -> HTTPResponse:
    """Return the answer of a registry, to be read and closed. Raises `NotFoundError` and `RegistryError`."""
    if not address.startswith(("https://", "http://")):
        raise RegistryError(f"{address} is no address of the web; correct the registry's configuration.")
    try:
        answer: HTTPResponse = urllib.request.urlopen(address, timeout=TIMEOUT_S)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410, 451}:
            raise NotFoundError(f"{address} is gone ({error.code})") from error
        raise _unreachable(address, error) from error
    except OSError as error:
        raise _unreachable(address, error) from error
    return answer


def _unreachable(address: str, error: OSError) -> RegistryError:
    return RegistryError(f"{address} cannot be had ({error}); see to the connection and run this again.")


def _normal(name: str) -> str:
    """Return a project's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(requirements: Iterable[str]) -> Iterable[str]:
    for requirement in requirements:
        if match := _REQUIREMENT.match(requirement):
            yield _normal(match[0])


def _said(command: list[str]) -> str:
    """Return what a client prints; nothing where there is no such client, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
