"""The report in a browser while the run goes on: asked over HTTP, and in a headless Chromium where there is one."""

import gzip
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from threading import Thread

import pytest

from ctwa.errors import CtwaError
from ctwa.report.html import make_report, page
from ctwa.report.watch.web import LiveReport, Server
from ctwa.run import RunFolder, TraceWriter
from tests.report.browsers import CHROMIUM, needs_chromium
from tests.run.runs import info, step_metrics


@pytest.fixture
def serve():
    servers = []

    def serve_it(run, pause=0.0, look=5.0):
        server = Server(LiveReport(run.path, pause=pause, share=0.0), 0, look=look)
        thread = Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return server

    yield serve_it
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def get(port, path, host="127.0.0.1:{}"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host.format(port)})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.getheader("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return answer, body.decode()


def state(port):
    return json.loads(get(port, "/state")[1])


def test_the_report_is_the_one_of_ctwa_report_and_grows_with_the_run(make_run, serve):
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    port = serve(run).server_port
    assert get(port, "/report")[1] == page(make_report([run.path]))
    first = state(port)
    assert first["version"] == first["made"]
    with TraceWriter(run.metrics, resume_after=1) as trace:
        trace.write(2, step_metrics(accuracy=0.75, clarity=0.5))
        second = state(port)
        assert second["version"] != second["made"] == first["made"]
        assert second["status"].startswith("going on at step 2 of 4")
        report = get(port, "/report")[1]
    assert "up to step 2" in report
    assert report == page(make_report([run.path]))
    assert state(port)["made"] == second["version"]


def test_a_report_is_made_again_only_when_its_time_has_come(make_run, serve):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    port = serve(run, pause=3600.0).server_port
    report = get(port, "/report")[1]
    with TraceWriter(run.metrics, resume_after=1) as trace:
        trace.write(2, step_metrics(accuracy=0.75))
    assert state(port)["version"] == state(port)["made"]
    assert get(port, "/report")[1] == report


def test_a_run_before_its_first_step_has_a_page_that_waits(tmp_path, serve):
    run = RunFolder.create(tmp_path / "<script>alert(1)", {}, info())
    port = serve(run).server_port
    answer, html = get(port, "/report")
    assert answer.status == 200
    assert "&lt;script&gt;alert(1) holds no run" in html
    with TraceWriter(run.metrics) as trace:
        trace.write(1, step_metrics(accuracy=0.5))
    assert state(port)["version"] != state(port)["made"]
    assert "up to step 1" in get(port, "/report")[1]


def test_only_this_machine_can_ask(make_run, serve):
    server = serve(make_run("run", {1: step_metrics(accuracy=0.5)}))
    port = server.server_port
    assert server.socket.getsockname()[0] == "127.0.0.1"
    for host in ("evil.example:{}", "127.0.0.1.evil.example:{}", ":{}", "evil.example", ""):
        answer, body = get(port, "/state", host)
        assert answer.status == 403
        assert "step" not in body
    for host in ("localhost:{}", "localhost", "127.0.0.1"):  # without the port, as a browser sends it where it is 80
        assert get(port, "/state", host)[0].status == 200
    assert get(port, "/../run.json")[0].status == 404
    answer, _ = get(port, "/")
    assert "connect-src 'self'" in answer.getheader("Content-Security-Policy")
    assert "http" not in answer.getheader("Content-Security-Policy")


def test_a_file_that_breaks_is_told_and_does_not_end_the_server(make_run, serve):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    port = serve(run).server_port
    with run.metrics.open("ab") as file:
        file.write(b"no record\n")
    answer, body = get(port, "/state")
    assert answer.status == 500
    assert "metrics.jsonl is not JSON" in body


def test_a_port_that_is_taken_is_a_mistake_in_one_sentence(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CtwaError, match=r"port \d+ cannot be used .*: give another one, or 0 for any"):
            Server(LiveReport(run.path), taken.getsockname()[1])


def test_the_command_says_where_and_ends_with_ctrl_c(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    command = [sys.executable, "-u", "-m", "ctwa.cli", "watch", str(run.path), "--web", "0"]
    # A shell has its background jobs ignore Ctrl-C, and what they start inherits that: here the tests may be the job.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            said = process.stdout.readline()
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ ", said).group(1))
            assert get(port, "/state")[0].status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("error", "said"), [(BrokenPipeError(), ""), (ConnectionResetError(), ""), (KeyError("x"), "KeyError")]
)
def test_a_tab_that_was_closed_is_no_error(make_run, serve, capsys, error, said):
    server = serve(make_run("run", {1: step_metrics(accuracy=0.5)}))
    try:
        raise error
    except (ConnectionError, KeyError):
        server.handle_error(None, ("127.0.0.1", 1))
    shown = capsys.readouterr().err
    assert said in shown
    assert bool(shown) == bool(said)


@pytest.mark.browser
@needs_chromium
def test_the_page_refreshes_itself_keeps_the_view_and_asks_nobody_else(make_run, serve):
    from playwright.sync_api import sync_playwright

    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    server = serve(run, look=0.1)
    address = f"http://127.0.0.1:{server.server_port}/"
    messages, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(color_scheme="light")
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(address)
        report = tab.frame_locator("iframe:not(.coming)")
        report.locator("#theme").click()
        report.locator("html[data-theme=dark]").wait_for()
        report.locator(".key").click()
        report.locator(".key[aria-pressed=false]").wait_for()
        with TraceWriter(run.metrics, resume_after=1) as trace:
            trace.write(2, step_metrics(accuracy=0.75, clarity=0.5))
            report.get_by_text("up to step 2").wait_for()
            report.locator("html[data-theme=dark]").wait_for()
            report.locator(".key[aria-pressed=false]").wait_for()
            report.locator(".plot .main-svg").first.wait_for()
            tab.locator("#status", has_text="going on at step 2 of 4").wait_for()
            tab.locator("#refresh").uncheck()
            trace.write(3, step_metrics(accuracy=0.75, clarity=0.5))
            tab.locator("#status", has_text="going on at step 3 of 4").wait_for()
            assert report.get_by_text("up to step 2").count() == 1
            tab.locator("#refresh").check()
            report.get_by_text("up to step 3").wait_for()
        assert tab.locator("iframe").count() == 1
        assert tab.title() == "Report: ctwa"
        browser.close()
    assert messages == []
    assert set(requests) <= {address, f"{address}report", f"{address}state", f"{address}favicon.ico"}


@pytest.fixture
def tab():
    """A tab of a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page()
        browser.close()


@pytest.mark.browser
@needs_chromium
def test_a_slow_answer_is_waited_for_and_shows_one_report(make_run, serve, tab):
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    address = f"http://127.0.0.1:{serve(run, look=1.0).server_port}/"
    tab.clock.install()
    held = []
    tab.route("**/state", lambda route: held.append(route))
    with tab.expect_request("**/state"):
        tab.goto(address)
    tab.clock.run_for(10_000)  # ten further looks fall due while the first has no answer
    tab.route("**/state", lambda route: route.continue_())
    assert len(held) == 1
    held[0].continue_()
    tab.frame_locator("iframe:not(.coming)").get_by_text("up to step 1").wait_for()
    assert tab.locator("iframe").count() == 1


@pytest.mark.browser
@needs_chromium
def test_a_report_that_could_not_be_loaded_is_never_shown(make_run, serve, tab):
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.5)})
    tab.route("**/report", lambda route: route.abort())
    tab.goto(f"http://127.0.0.1:{serve(run, look=0.1).server_port}/")
    tab.locator("#status", has_text="ctwa watch has ended").wait_for()
    tab.unroute("**/report")
    tab.frame_locator("iframe:not(.coming)").get_by_text("up to step 1").wait_for()
    assert tab.locator("iframe").count() == 1
