"""A package registry on loopback that serves archives made on the fly, for the tests of corpora."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MIT = (
    "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software.\n"
    "The above copyright notice and this permission notice shall be included in all copies.\n"
)
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"


def code(seed: str, lines: int = 30) -> str:
    """Return Python source of its own for each seed."""
    words = [hashlib.sha256(f"{seed}{number}".encode()).hexdigest()[:10] for number in range(lines)]
    return "".join(f"def work_{word}(value):\n    return value.call_{word}(value) + {word!r}\n\n" for word in words)


def tar_of(files: Mapping[str, str | bytes], top: str) -> bytes:
    """Return a .tar.gz of some files below one folder, the same bytes for the same files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
        for path, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def sdist(name: str, version: str, files: Mapping[str, str | bytes], license_id: str = "MIT", text: str = MIT) -> bytes:
    """Return a source distribution."""
    about = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {license_id}\n"
    extra = {"PKG-INFO": about} | ({"LICENSE": text} if text else {})
    return tar_of(extra | dict(files), f"{name}-{version}")


class Registry:
    """Serves what was added, as pip's index and as npm's registry; `asked` holds the paths that were asked for."""

    def __init__(self) -> None:
        """Listen on a free port of loopback."""
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                data = registry.files.get(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def add_pypi(self, name: str, data: bytes, version: str = "1.0", wants: tuple[str, ...] = ()) -> str:
        """Serve a source distribution, and return its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        file = f"{name}-{version}.tar.gz"
        self.files[f"/packages/{file}"] = data
        self.files[f"/simple/{name}/"] = f'<a href="../../packages/{file}#sha256={sha256}">{file}</a>'.encode()
        row = {
            "packagetype": "sdist",
            "filename": file,
            "url": f"../../packages/{file}",
            "size": len(data),
            "digests": {"sha256": sha256},
        }
        info = {"name": name, "version": version, "license_expression": "MIT", "requires_dist": list(wants)}
        self.files[f"/pypi/{name}/json"] = json.dumps({"info": info, "urls": [row]}).encode()
        return sha256

    def add_npm(self, name: str, files: Mapping[str, str | bytes], version: str = "1.0.0") -> str:
        """Serve an npm package, and return its SHA-256."""
        about = {"name": name, "version": version, "license": "MIT", "repository": f"https://example.org/{name}"}
        data = tar_of({"package.json": json.dumps(about), "LICENSE": MIT} | dict(files), "package")
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        path = f"/{name}/-/{name}-{version}.tgz"
        self.files[path] = data
        facts = about | {"dist": {"tarball": self.url + path, "integrity": integrity}, "dependencies": {}}
        for tag in ("latest", version):
            self.files[f"/{name}/{tag}"] = json.dumps(facts).encode()
        return hashlib.sha256(data).hexdigest()
