"""Opens what the service listens on: a Unix socket that only its owner can reach, or a TCP port.

uvicorn would open a Unix socket for everyone (0666) and give it its mode afterwards; here it is bound under a
umask, so that it is never more open than 0600, and handed over ready.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

MAX_PATH_BYTES = 107  # sockaddr_un on Linux
OWNER_ONLY = 0o177  # umask: 0600
PROBE_TIMEOUT_S = 1.0
BACKLOG = 2048


class CannotListen(Exception):
    """The address cannot be used; the message says why and what to do."""


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """Bind a Unix socket, replacing one that nobody answers on; take its file away at the end.

    Raises CannotListen if the path is too long, is no socket, or another service answers there.
    """
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise CannotListen(
            f"The socket path {path} is {length} bytes long; Linux allows {MAX_PATH_BYTES}."
            " Set service.socket to a shorter one."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        sock = _bind_owner_only(path)
        ours = path.stat().st_ino
    except OSError as error:
        raise CannotListen(f"The socket {path} cannot be opened: {error.strerror or error}.") from error
    try:
        with closing(sock):
            yield sock
    finally:
        if path.exists() and path.stat().st_ino == ours:  # another service may have taken the place
            path.unlink()


@contextmanager
def tcp_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a TCP port. Raises CannotListen if it is taken or the host is unknown."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListen(f"service.host {host} is not an address of this machine: {error.strerror}.") from error
    with closing(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            raise CannotListen(f"{host}:{port} cannot be listened on: {error.strerror or error}.") from error
        yield sock


def _bind_owner_only(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(OWNER_ONLY)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)  # from now on another service sees that this one is alive
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket file that a dead service left. Raises CannotListen for a living one, or another kind of file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"{path} exists and is no socket. Move it away, or set service.socket to another path.")
    if _answers(path):
        raise CannotListen(
            f"Another service already answers on {path}. Stop it, or set service.socket to another path."
        )
    path.unlink()


def _answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (TimeoutError, BlockingIOError):  # its backlog is full: busy, but alive
            return True
        return True
