"""nginx as a server of HTTP/1, where it is installed."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = """
{user}daemon off; worker_processes 1; error_log stderr; pid {folder}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; gzip on; gzip_min_length 1; gzip_types text/plain; keepalive_requests 10000; default_type text/plain;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}; root {folder}/www;
    location = /none {{ return 204; }}
    location = /made {{ return 201 "made"; }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """A server that takes requests that do not wait; yields its port."""
    port = free_port()
    (folder / "www").mkdir()
    (folder / "www" / "index.html").write_text("hello " * 200)
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, user="user root; " if os.geteuid() == 0 else ""))
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "conf"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(3000):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
                threading.Event().wait(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()
