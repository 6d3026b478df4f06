"""What the status page says, to whom, and what it looks like in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from KDSegmentatorLib.errors import NodeError
from KDSegmentatorLib.node.deliveries import Deliveries
from KDSegmentatorLib.node.queue import Queue
from KDSegmentatorLib.node.rules import Facts
from KDSegmentatorLib.node.scan import ImageFile, encode
from KDSegmentatorLib.node.settings import FolderTarget, Settings
from KDSegmentatorLib.node.status_page import StatusPage

NAME = "Mueller_Anna"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[StatusPage]:
    queue = Queue(tmp_path / "queue.sqlite")
    deliveries = Deliveries(queue)
    facts = Facts(dicom=False, description=NAME)
    source = encode(ImageFile(facts=facts, result=NAME, sha256="0", path=f"{NAME}.nii.gz"))
    queue.admit(content="a", series="a", source=source, rules={"brain": 0})
    job = queue.claim(60)
    assert job is not None
    deliveries.written(job, ["out"], {})
    queue.admit(content="b", series="b", source=source, rules={}, refusal="no rule fits (brain: it has 3 images)")
    with StatusPage(0, queue, deliveries, Settings(target=(FolderTarget(name="out", folder="out"),))) as page:
        yield page


def ask(page: StatusPage, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    request = Request(f"http://127.0.0.1:{page.port}{path}", method=method, headers=headers)
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_it_shows_states_and_reasons_and_no_patient(page: StatusPage) -> None:
    code, text = ask(page, "/status.json")
    status = json.loads(text)
    assert code == 200
    assert [(job["id"], job["state"]) for job in status["jobs"]] == [(2, "refused"), (1, "written")]
    assert status["targets"] == [{"name": "out", "due": 1, "delivered": 0, "failed": 0}]
    everything = [text, *(ask(page, path)[1] for path in ("/", "/metrics", "/health"))]
    assert not any("Mueller" in said or "Anna" in said for said in everything)


def test_health_and_metrics_say_when_the_queue_is_suspended(page: StatusPage) -> None:
    assert ask(page, "/health")[0] == 200
    assert "kdseg_suspended 0\n" in ask(page, "/metrics")[1]
    page.queue.suspend("disk", "the disk is full")
    code, text = ask(page, "/health")
    assert (code, json.loads(text)["suspension"]["reason"]) == (503, "the disk is full")
    assert "kdseg_suspended 1\n" in ask(page, "/metrics")[1]


def test_metrics_are_in_the_form_of_prometheus(page: StatusPage) -> None:
    lines = ask(page, "/metrics")[1].splitlines()
    assert 'kdseg_jobs{state="refused"} 1' in lines
    assert 'kdseg_deliveries{target="out",state="due"} 1' in lines
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.e+-]+')
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)


def test_a_job_is_run_again_by_the_page_alone(page: StatusPage) -> None:
    assert ask(page, "/retry/2", method="POST")[0] == 403
    assert ask(page, "/retry/2", method="POST", **{"X-Token": "guessed"})[0] == 403
    assert ask(page, "/retry/2", method="POST", **{"X-Token": page.token})[0] == 200
    assert page.queue.counts()["received"] == 1
    code, text = ask(page, "/retry/1", method="POST", **{"X-Token": page.token})
    assert (code, "at work already" in text) == (409, True)
    for path in ("/retry/x", "/retry/-1", "/retry/" + "9" * 30, "/else/2"):
        assert ask(page, path, method="POST", **{"X-Token": page.token})[0] == 404


def test_another_name_for_this_address_is_refused(page: StatusPage) -> None:
    assert ask(page, "/status.json", Host="evil.example")[0] == 403
    assert ask(page, "/../../etc/passwd")[0] == 404


def test_a_port_that_is_taken_is_named(page: StatusPage) -> None:
    with pytest.raises(NodeError, match=f"cannot listen on 127.0.0.1:{page.port}"):
        StatusPage(page.port, page.queue, page.deliveries, page.settings)


def test_a_browser_shows_tiles_jobs_and_the_banner(page: StatusPage, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    page.queue.suspend("disk", "the disk is <b>full</b>")
    shown = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2500",
            f"--user-data-dir={tmp_path}/browser", "--dump-dom", f"http://127.0.0.1:{page.port}/",
        ],
        capture_output=True, encoding="utf-8", timeout=120, check=True,
    ).stdout  # fmt: skip
    text = re.sub(r"<[^>]+>", " ", shown)
    assert "Suspended" in text
    assert "the disk is &lt;b&gt;full&lt;/b&gt;" in text
    assert re.search(r"1\s+at work", text)
    assert re.search(r"1\s+need attention", text)
    assert "no rule fits (brain: it has 3 images)" in text
    assert shown.count("Run again") == 1
