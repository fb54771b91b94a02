"""Serving from start to end, as a table of contents."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from unfreeze.errors import RequestError, missing_extra
from unfreeze.progress import Progress
from unfreeze.serving.hosting import Observer
from unfreeze.serving.limits import Limits
from unfreeze.serving.tasks import Registry, named_runs

# How long answers under way may take after SIGTERM.
DRAIN_SECONDS = 30
LOCAL = ("127.0.0.1", "localhost")
# What is left of an IPv6 address in a Host header that is cut at its first colon; no name begins so.
IPV6 = "["


def serve(
    runs: list[str],
    *,
    host: str,
    port: int,
    limits: Limits,
    token_file: Path | None,
    changes: Path | None,
    progress: Progress,
) -> None:
    """Serve runs until the process is told to stop; requests under way are answered first.

    ``runs``: folders, or NAME=FOLDER. ``token_file``: holds the bearer token that every request must name.
    ``changes``: below this folder runs may be loaded over the network. Raises RequestError for what cannot be served.
    """
    try:
        import uvicorn

        from unfreeze.serving.app import Access, make_app
        from unfreeze.serving.meters import Meters
    except ImportError:
        raise missing_extra("serve", "unfreeze serve") from None
    token = _token(token_file)
    _check_changes(token, changes)
    local = _is_local(host)
    if not local and token is None:
        progress.say(
            f"{host} can be reached from other machines, and everyone is answered: see --token-file."
        )
    with _bound(host, port) as addresses:
        meters = Meters()
        registry = Registry(limits, Observer(computed=meters.computed))
        for name, folder in named_runs(runs).items():
            task = registry.put(name, folder)
            progress.say(
                f"{name}: {len(task.bundle.labels)} classes on {task.bundle.backbone.name}, {task.executor}."
            )
        count, networks = len(registry.tasks), len(registry.hosts)
        progress.say(
            f"{count} task{'' if count == 1 else 's'} on {networks} network{'' if networks == 1 else 's'}: "
            f"http://{f'[{host}]' if ':' in host else host}:{port}"
        )
        access = Access(token=token, changes=changes, hosts=(*LOCAL, host, IPV6) if local else None)
        config = uvicorn.Config(
            make_app(registry, meters, access),
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_SECONDS,
            server_header=False,
        )
        try:
            for address in addresses:
                address.listen(config.backlog)
        except OSError as problem:
            # Another process began to listen there while runs were loaded.
            raise _not_listening(host, port, problem) from None
        # Ctrl-C and SIGTERM are how it is told to stop; by then requests under way have been answered.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=addresses)


def _is_local(host: str) -> bool:
    """Whether no other machine reaches this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL


@contextmanager
def _bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """A socket for each address of the host, which nothing can reach yet: it is refused before runs are loaded.

    Raises RequestError for an address that cannot be had.
    """
    with ExitStack() as held:
        try:
            found = _bind(host, port, held)
        except OSError as problem:
            raise _not_listening(host, port, problem) from None
        yield found


def _bind(host: str, port: int, held: ExitStack) -> list[socket.socket]:
    addresses = dict.fromkeys(
        (family, address) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    )
    found, absent = [], OSError("it has no address")
    for family, address in addresses:
        one = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Those of IPv4 have sockets of their own.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind(address)
        except OSError as problem:
            # A name may stand for an address that this machine does not have, such as ::1 without IPv6.
            if problem.errno != errno.EADDRNOTAVAIL:
                raise
            absent = problem
        else:
            found.append(one)
    if not found:
        raise absent
    return found


def _not_listening(host: str, port: int, problem: OSError) -> RequestError:
    return RequestError(
        f"--host {host} --port {port} cannot be listened on ({problem.strerror or problem}): choose another."
    )


def _token(file: Path | None) -> str | None:
    """The token of a file: on a command line everyone on the machine could read it."""
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise RequestError(
            f"--token-file {file} cannot be read ({problem.strerror if isinstance(problem, OSError) else problem})."
        ) from None
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(
            f"--token-file {file} must hold one line of at least 16 printable ASCII characters without spaces."
        )
    return token


def _check_changes(token: str | None, changes: Path | None) -> None:
    if changes is not None and token is None:
        raise RequestError("--allow-changes lets requests load runs: give --token-file too.")
    if changes is not None and not changes.is_dir():
        raise RequestError(f"--allow-changes {changes} is no folder: name the one that runs lie in.")
