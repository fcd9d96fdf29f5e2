"""The part of the model hub that a download asks for, on loopback: repositories out of memory."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "0123456789abcdef0123456789abcdef01234567"
Repos = dict[str, dict[str, bytes]]  # by id, then by file name


def oid(content: bytes) -> str:
    """What the hub knows a file's content by."""
    return hashlib.sha1(content).hexdigest()


@contextmanager
def model_hub(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories; gives the address, and the files that were fetched, as they are."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and (files := repos.get("/".join(parts[2:4]))) is not None:
                tree = [{"type": "file", "path": n, "size": len(f), "oid": oid(f)} for n, f in files.items()]
                names = [{"rfilename": name} for name in files]
                said: object = tree if "tree" in parts else {"id": "/".join(parts[2:4]), "sha": SHA, "siblings": names}
                self._send(json.dumps(said).encode(), body=body)
            elif parts[2:3] == ["resolve"] and (data := repos.get("/".join(parts[:2]), {}).get(parts[-1])) is not None:
                if body:
                    fetched.append(parts[-1])
                self._send(data, body=body, ETag=f'"{oid(data)}"', **{"X-Repo-Commit": SHA})
            else:
                self._send(b"", 401, body=body, **{"X-Error-Code": "RepoNotFound"})

        def _send(self, data: bytes, status: int = 200, *, body: bool, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="fake-hub")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
