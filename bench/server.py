"""A server as a process of its own, and the body of a request with pictures."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any


def start_server(run: Path, **options: Any) -> tuple[subprocess.Popen[bytes], int]:
    """The server of a run as the task ``task``, ready to answer, and its port; ``options`` are those of Popen."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "unfreeze", "serve", f"task={run}", "--port", str(port)]
    process = subprocess.Popen(command, **options)
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            time.sleep(0.2)


def multipart(raws: list[bytes]) -> tuple[bytes, str]:
    """The body that sends these files, and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="files"; filename="{place}"\r\n\r\n'.encode()
        + raw
        + b"\r\n"
        for place, raw in enumerate(raws)
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
