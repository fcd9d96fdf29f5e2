"""A Hugging Face hub on loopback with one data set, for the real `datasets` in a process with HF_ENDPOINT.

with fake_hub("owner/jokes", {"README.md": card, "data/train.csv": rows}) as hub:
    env = {"HF_ENDPOINT": hub.address}
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "a" * 40


@dataclass
class Hub:
    """What it holds, and what it was asked: (method, path)."""

    name: str
    files: dict[str, bytes]
    licence: str
    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def about(self) -> Any:
        return {
            "id": self.name,
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name} for name in self.files],
            "cardData": {"license": self.licence},
        }

    def tree(self, folder: str) -> Any:
        """The files and folders that are directly in a folder."""
        inside = [name.removeprefix(folder) for name in self.files if name.startswith(folder)]
        folders = {name.split("/")[0] for name in inside if "/" in name}
        return [
            *({"type": "directory", "oid": "c" * 40, "size": 0, "path": folder + name} for name in sorted(folders)),
            *(
                {"type": "file", "oid": "b" * 40, "size": len(self.files[folder + name]), "path": folder + name}
                for name in inside
                if "/" not in name
            ),
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append((self.command, path))
        about, resolve = f"/api/datasets/{self.hub.name}", f"/datasets/{self.hub.name}/resolve/"
        if path.startswith(f"{about}/tree/"):
            folder = path.removeprefix(f"{about}/tree/").partition("/")[2]
            self._answer(json.dumps(self.hub.tree(f"{folder}/" if folder else "")).encode())
        elif path == about or path.startswith(f"{about}/revision/"):
            self._answer(json.dumps(self.hub.about()).encode())
        elif path.startswith(resolve):
            content = self.hub.files.get(path.removeprefix(resolve).partition("/")[2])
            self._answer(content, "EntryNotFound")
        else:
            self._answer(None, "RepoNotFound")

    def _answer(self, content: bytes | None, missing: str = "") -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Accept-Ranges": "bytes"}
        if content is not None and asked:
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        self.send_response(404 if content is None else 206 if asked else 200)
        headers |= {"X-Repo-Commit": COMMIT, "ETag": f'"{"b" * 40}"', "X-Error-Code": missing}
        for name, value in {**headers, "Content-Length": str(len(content or b""))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def fake_hub(name: str, files: dict[str, bytes], licence: str) -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub(name, files, licence)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
