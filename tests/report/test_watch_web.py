"""The report in a browser while the run goes on: asked as by HTTP, and in a headless Chromium where there is one."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from fastapi.testclient import TestClient

from ctwa.errors import CtwaError
from ctwa.report.html import make_report, page
from ctwa.report.watch.web import LiveReport, serve, web_app
from ctwa.run import RunFolder, TraceWriter
from tests.report.browsers import CHROMIUM, needs_chromium
from tests.run.runs import info, step_metrics


def client(run, pause=0.0):
    app = web_app(LiveReport(run.path, pause=pause, share=0.0))
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


def version(browser):
    return browser.get("/state").json()["version"]


def test_the_report_is_the_one_of_ctwa_report_and_grows_with_the_run(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    browser = client(run)
    made = version(browser)
    assert browser.get("/").text == page(make_report([run.path]), live=(made, 5.0))
    with TraceWriter(run.metrics, resume_after=1) as trace:
        trace.write(2, step_metrics(accuracy=0.75, clarity=0.5))
        assert version(browser) != made
        assert browser.get("/state").json()["status"].startswith("going on at step 2 of 4")
        report = browser.get("/").text
    assert "up to step 2" in report
    assert f'data-version="{version(browser)}"' in report


def test_a_report_is_made_again_only_when_its_time_has_come(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    browser = client(run, pause=3600.0)
    report, made = browser.get("/").text, version(browser)
    with TraceWriter(run.metrics, resume_after=1) as trace:
        trace.write(2, step_metrics(accuracy=0.75))
    assert version(browser) == made
    assert browser.get("/").text == report


def test_a_run_before_its_first_step_has_a_page_that_waits(tmp_path):
    run = RunFolder.create(tmp_path / "<script>alert(1)", {}, info())
    browser = client(run)
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "&lt;script&gt;alert(1) holds no run" in answer.text
    with TraceWriter(run.metrics) as trace:
        trace.write(1, step_metrics(accuracy=0.5))
    assert "up to step 1" in browser.get("/").text


def test_only_a_page_of_this_machine_can_ask_and_the_report_asks_only_it(make_run):
    browser = client(make_run("run", {1: step_metrics(accuracy=0.5)}))
    for host in ("evil.example:8000", "127.0.0.1.evil.example:8000", ":8000", "evil.example", ""):
        for path in ("/", "/state"):
            answer = browser.get(path, headers={"Host": host})
            assert answer.status_code == 400
            assert "step" not in answer.text
    for host in ("localhost:8000", "localhost", "127.0.0.1"):  # without the port, as a browser sends it where it is 80
        assert browser.get("/state", headers={"Host": host}).status_code == 200
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', browser.get("/").text)
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("connect-src 'self'")


def test_a_file_that_breaks_is_told_and_does_not_end_the_server(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    browser = client(run)
    with run.metrics.open("ab") as file:
        file.write(b"no record\n")
    answer = browser.get("/state")
    assert answer.status_code == 500
    assert "metrics.jsonl is not JSON" in answer.text


def test_a_port_that_is_taken_is_a_mistake_in_one_sentence(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CtwaError, match=r"port \d+ cannot be used .*: give another one, or 0 for any"):
            serve(LiveReport(run.path), taken.getsockname()[1], say=print)


@pytest.fixture
def address(make_run):
    """Where `ctwa watch --web` serves a run, which then goes on; it ends by Ctrl-C."""
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    program = """
import sys
from ctwa.report.watch.web import LiveReport, serve
serve(LiveReport(sys.argv[1], pause=0.0, share=0.0, look=0.1), 0, say=lambda text: print(text, flush=True))
"""
    # A shell has its background jobs ignore Ctrl-C, and what they start inherits that: here the tests may be the job.
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            yield run, found.group()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_the_server_answers_and_ends_with_ctrl_c(address):
    with urllib.request.urlopen(address[1] + "state", timeout=60) as answer:
        assert b"at step 1 of 4" in answer.read()


@pytest.mark.browser
@needs_chromium
def test_the_page_refreshes_itself_keeps_the_view_and_asks_nobody_else(address):
    from playwright.sync_api import sync_playwright

    run, url = address
    messages, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(color_scheme="light")
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(url)
        tab.locator("#theme").click()
        tab.locator("html[data-theme=dark]").wait_for()
        tab.locator(".key").click()
        tab.locator(".key[aria-pressed=false]").wait_for()
        with TraceWriter(run.metrics, resume_after=1) as trace:
            trace.write(2, step_metrics(accuracy=0.75, clarity=0.5))
            tab.get_by_text("up to step 2").wait_for()
            tab.locator("html[data-theme=dark]").wait_for()
            tab.locator(".key[aria-pressed=false]").wait_for()
            tab.locator(".plot .main-svg").first.wait_for()
            tab.locator("#live", has_text="going on at step 2 of 4").wait_for()
            tab.locator("#live input").uncheck()
            trace.write(3, step_metrics(accuracy=0.75, clarity=0.5))
            tab.locator("#live", has_text="going on at step 3 of 4").wait_for()
            assert tab.get_by_text("up to step 2").count() == 1
            tab.locator("#live input").check()
            tab.get_by_text("up to step 3").wait_for()
        browser.close()
    assert messages == []
    assert set(requests) <= {url, f"{url}state", f"{url}favicon.ico"}
