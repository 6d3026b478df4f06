"""The status page, on 127.0.0.1: jobs, states, times, reasons, "run again"; ``/health`` and ``/metrics``.

It shows no patient data: the queue has none but the names of files in the watched folder, which are left out here.
Another web page that is open in the same browser can neither read it (its address must be the one that we listen on)
nor run jobs (that takes the token, which is in our page only).
"""

from __future__ import annotations

import logging
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.node import metrics
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.settings import Settings
from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
SHOWN_JOBS = 200
_POLL_SECONDS = 0.1
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STATIC = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}

_log = logging.getLogger(__name__)


class StatusPage:
    """Serves the page while the block runs.

    Args:
        port: of 127.0.0.1; 0 takes a free one.
        queue: with the jobs.
        deliveries: of the queue.
        settings: with the targets.

    Raises:
        NodeError: the port is taken.
    """

    def __init__(self, port: int, queue: Queue, deliveries: Deliveries, settings: Settings) -> None:
        self.queue = queue
        self.deliveries = deliveries
        self.settings = settings
        self.token = secrets.token_urlsafe(24)
        page = self

        class Handler(_Handler):
            status_page = page

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise NodeError(
                f"the status page cannot listen on {HOST}:{port} ({error.strerror}); give another port under [page]"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="status page", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def status(self) -> dict[str, Any]:
        """Return what the page shows, without patient data."""
        counts = self.deliveries.counts()
        return {
            "now": self.queue.clock(),
            "suspension": self.queue.suspension(),
            "counts": self.queue.counts(),
            "targets": [
                {
                    "name": target.name,
                    "due": counts.get((target.name, "due"), 0),
                    "delivered": counts.get((target.name, "delivered"), 0) + counts.get((target.name, "confirmed"), 0),
                    "failed": counts.get((target.name, "failed"), 0),
                }
                for target in self.settings.target
            ],
            "jobs": [
                {
                    "id": job.id,
                    "state": job.state,
                    "rule": job.rule,
                    "reason": job.reason,
                    "pack": job.pack,
                    "progress": job.progress,
                    "received": job.received,
                    "started": job.started,
                    "written": job.written,
                    "targets": [
                        {
                            "target": each.target,
                            "state": each.state,
                            "tries": each.tries,
                            "next_try": each.next_try,
                            "commitment": each.commitment,
                        }
                        for each in self.deliveries.of_job(job.id)
                    ],
                }
                for job in self.queue.jobs(limit=SHOWN_JOBS)
            ],
        }


class _Handler(BaseHTTPRequestHandler):
    status_page: StatusPage
    server_version = "kdseg-node"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        page = self.status_page
        if not self._is_ours():
            return
        if self.path == "/":
            text = _file("page.html").replace("{{token}}", page.token).replace("{{version}}", __version__)
            self._answer(text, "text/html; charset=utf-8")
        elif self.path in _STATIC:
            self._answer(_file(self.path[1:]), _STATIC[self.path])
        elif self.path == "/status.json":
            self._answer(msgspec.json.encode(page.status()).decode(), "application/json")
        elif self.path == "/health":
            suspension = page.queue.suspension()
            code = HTTPStatus.OK if suspension is None else HTTPStatus.SERVICE_UNAVAILABLE
            content = {"status": "ok" if suspension is None else "suspended", "suspension": suspension}
            self._answer(msgspec.json.encode(content).decode(), "application/json", code)
        elif self.path == "/metrics":
            self._answer(metrics.text(page.queue, page.deliveries, page.settings), metrics.CONTENT_TYPE)
        else:
            self._answer("there is no such page\n", "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        page = self.status_page
        if not self._is_ours():
            return
        if not secrets.compare_digest(self.headers.get("X-Token", ""), page.token):
            self._answer("reload the page\n", "text/plain; charset=utf-8", HTTPStatus.FORBIDDEN)
            return
        start, _, number = self.path.rpartition("/")
        if start != "/retry" or not number.isascii() or not number.isdigit() or len(number) > 18:
            self._answer("there is no such page\n", "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND)
            return
        try:
            page.queue.retry(int(number))
        except NodeError as error:
            self._answer(f"{error}\n", "text/plain; charset=utf-8", HTTPStatus.CONFLICT)
        else:
            self._answer("{}", "application/json")

    def _is_ours(self) -> bool:
        """Refuse requests that a foreign page makes under a name of its own for this address (DNS rebinding)."""
        port = self.status_page.port
        if self.headers.get("Host", "") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._answer("ask for 127.0.0.1\n", "text/plain; charset=utf-8", HTTPStatus.FORBIDDEN)
        return False

    def _answer(self, text: str, kind: str, code: HTTPStatus = HTTPStatus.OK) -> None:
        content = text.encode("utf-8")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing: the page asks every two seconds."""

    def finish(self) -> None:
        super().finish()
        self.status_page.queue.close()  # this thread's connection


def _file(name: str) -> str:
    return (files("KDSegmentatorLib.node") / "page" / name).read_text(encoding="utf-8")
