"""Certificates of tests, made by openssl; and TLS before a server that has none, as a reverse proxy does it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


def authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; return its certificate, beside which its key lies."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    _openssl("req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-subj", f"/CN={name}", "-keyout", folder / f"{name}-key.pem", "-out", folder / f"{name}.pem")  # fmt: skip
    return folder / f"{name}.pem"


def certificate(authority: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1; return it and its key."""
    folder = authority.parent
    key, request, signed = (folder / f"{name}{end}" for end in ("-key.pem", ".csr", ".pem"))
    _openssl("req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-subj", f"/CN={name}", "-keyout", key, "-out", request)  # fmt: skip
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    _openssl("x509", "-req", "-days", "2", "-in", request, "-CA", authority, "-CAkey",
             authority.with_name(f"{authority.stem}-key.pem"), "-CAcreateserial", "-extfile", extensions,
             "-out", signed)  # fmt: skip
    key.chmod(0o600)
    return signed, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def tls_proxy(port: int, certificate: tuple[Path, Path], clients: Path) -> Iterator[int]:
    """Pass TLS connections of clients with a certificate on to a port of this machine; give the own port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(plain,), daemon=True).start()

    def serve(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(plain, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", port)) as inside,
        ):
            back = threading.Thread(target=_pass_on, args=(inside, outside), daemon=True)
            back.start()
            _pass_on(outside, inside)
            back.join(10)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
