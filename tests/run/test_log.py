import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ctwa.errors import CtwaError
from ctwa.run.log import _message, _telling_lines, quiet, remote_cause


@pytest.fixture
def run(tmp_path):
    """Runs a script in a process of its own, whose descriptors can be redirected; `log` is a path in it."""

    def run_script(body, returncode=0, log_is_full=False):
        script = "import os, sys, ctypes\nfrom pathlib import Path\nfrom ctwa.errors import CtwaError\n"
        script += "from ctwa.run import RunFailed, quiet\nlog = Path('run/engine.log')\n" + textwrap.dedent(body)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == returncode, done.stderr
        return done.stdout, done.stderr, "" if log_is_full else (tmp_path / "run" / "engine.log").read_text()

    return run_script


def test_what_anything_prints_goes_to_the_log_and_the_console_to_the_terminal(run):
    out, err, log = run("""
        print("before")
        with quiet(log) as console:
            print("python out")
            print("python err", file=sys.stderr)
            os.write(1, b"descriptor\\n")
            ctypes.CDLL(None).puts(b"c library")
            os.system("echo child; echo child err >&2")
            console.print("to the user")
        print("after")
        print("after err", file=sys.stderr)
    """)
    assert out.splitlines() == ["before", "to the user", "after"]
    assert err.splitlines() == ["after err"]
    assert set(log.splitlines()) == {"python out", "python err", "descriptor", "c library", "child", "child err"}


def test_the_log_of_an_earlier_start_is_kept(run):
    _, _, log = run("""
        for word in ("first", "second"):
            with quiet(log):
                print(word)
    """)
    assert log.splitlines() == ["first", "second"]


def test_no_descriptor_is_left_open(run):
    run("""
        before = os.listdir("/proc/self/fd")
        with quiet(log):
            pass
        assert os.listdir("/proc/self/fd") == before
    """)


def test_an_error_is_told_with_the_telling_lines_and_its_traceback_is_in_the_log(run):
    out, err, log = run("""
        try:
            with quiet(log):
                print("INFO all is well")
                print("\\x1b[31mRuntimeError: worker 3 ran out of [memory]\\x1b[0m")
                raise OSError("the engine stopped\\nsecond line")
        except RunFailed as failed:
            assert isinstance(failed.__cause__, OSError)
            print("handled:", failed)
    """)
    assert out.splitlines() == [
        "error: the run stopped: OSError: the engine stopped",
        "  second line",
        "  | RuntimeError: worker 3 ran out of [memory]",
        "the whole log: run/engine.log",
        "handled: OSError: the engine stopped",
        "second line",
    ]
    assert err == ""
    assert "Traceback (most recent call last)" in log
    assert "all is well" in log


def test_a_users_mistake_is_told_in_its_own_words(run):
    out, _, log = run("""
        try:
            with quiet(log):
                print("ValueError: noise of an engine")
                raise CtwaError("objective [a] has weight -1: write a weight of 0 or more")
        except RunFailed:
            pass
    """)
    assert out.splitlines() == [
        "error: objective [a] has weight -1: write a weight of 0 or more",
        "the whole log: run/engine.log",
    ]
    assert "Traceback" in log


def test_an_interrupt_passes_through_and_gives_the_terminal_back(run):
    out, err, _ = run("""
        try:
            with quiet(log):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert (out, err) == ("interrupted\n", "")


def test_the_console_is_as_wide_as_the_terminal(tmp_path):
    # The terminal is on the descriptors 1 and 2 only: asking descriptor 0 for its width would not do.
    leader, terminal = pty.openpty()
    script = (
        "import os, fcntl, struct, termios\nfrom pathlib import Path\nfrom ctwa.run import quiet\n"
        "fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 123, 0, 0))\n"
        "with quiet(Path('engine.log')) as console:\n"
        "    console.print(console.width, console.is_terminal, highlight=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        timeout=60,
        check=True,
    )
    os.close(terminal)
    with os.fdopen(leader, "rb", buffering=0) as screen:
        assert screen.read(100).strip() == b"123 True"


def test_an_error_from_another_process_is_told_as_it_was_raised_there():
    remote = RuntimeError("a long remote traceback")
    remote.cause = ValueError("the mistake")
    assert remote_cause(remote) is remote.cause
    line, _ = next(_message(remote_cause(remote), [], Path("log")))
    assert line == "error: the run stopped: ValueError: the mistake"


def test_without_a_telling_line_the_last_lines_are_shown(tmp_path):
    log = tmp_path / "log"
    log.write_text("an Error of an earlier run\n" + "".join(f"line {index}\n\n" for index in range(100)))
    begin = len("an Error of an earlier run\n")
    assert _telling_lines(log, begin) == [f"line {index}" for index in range(88, 100)]


def test_what_could_not_be_imported_and_is_not_needed_tells_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "/env/verl/workers/engine/__init__.py:32: UserWarning: torchtitan engine is not available: "
        "ModuleNotFoundError(\"No module named 'torchtitan'\")\n"
        '  warnings.warn(f"torchtitan engine is not available: {e!r}", stacklevel=1)\n'
        "WARNING:2026-01-01 00:00:00:ImportError: cannot import name 'x'\n"
        "(raylet) A worker died or was killed while executing a task by an unexpected system error.\n"
        "ModuleNotFoundError: No module named 'my_rewards'\n"
        "/env/verl/workers/engine/__init__.py:41: UserWarning: veomni engine is not available: ImportError()\n"
    )
    assert _telling_lines(log, 0) == [
        "(raylet) A worker died or was killed while executing a task by an unexpected system error.",
        "ModuleNotFoundError: No module named 'my_rewards'",
    ]


def test_what_every_rank_says_is_told_once(tmp_path):
    log = tmp_path / "log"
    log.write_text("RuntimeError: first\n" + "ValueError: of every rank\n" * 30 + "RuntimeError: last\n")
    assert _telling_lines(log, 0) == ["RuntimeError: first", "ValueError: of every rank", "RuntimeError: last"]


@pytest.mark.parametrize(
    "failure",
    [
        "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        "open('/dev/full', 'wb', buffering=0).write(b'x')",
        "print('on the log'); sys.stdout.flush()",
        "JsonLinesWriter(Path('run/trace.jsonl'))._append({})",
        "write_atomically(Path('run/state.json'), b'x')",
    ],
)
def test_a_full_disk_is_one_sentence_though_the_log_is_on_it(run, failure, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("engine.log", "trace.jsonl", "state.json.tmp"):
        (tmp_path / "run" / name).symlink_to("/dev/full")
    out, err, _ = run(
        f"""
        import errno
        from ctwa.run.jsonl import JsonLinesWriter, write_atomically
        try:
            with quiet(log):
                print("buffered for the log")
                {failure}
        except RunFailed:
            print("handled")
        """,
        log_is_full=True,
    )
    first, *rest = out.splitlines()
    assert re.match(r"error: (the disk is full at .+free there\)|a disk is full, and not that of run)", first)
    assert first.endswith("make room, and go on with ctwa.resume=true")
    assert rest == ["the whole log: run/engine.log", "handled"]
    assert err == ""


def test_a_log_that_cannot_be_opened_is_said_in_one_sentence(tmp_path):
    (tmp_path / "engine.log").mkdir()
    with pytest.raises(CtwaError, match=r"engine\.log cannot be written \(Is a directory\): give another folder"):
        quiet(tmp_path / "engine.log").__enter__()


def test_of_two_runs_that_begin_at_one_moment_one_has_the_folder(tmp_path, capfd):
    """Both have seen that nobody holds it."""
    log = tmp_path / "engine.log"
    with quiet(log):
        with pytest.raises(CtwaError, match=r"^another process writes .*/engine.log: wait for its end, or give"):
            quiet(log).__enter__()
        os.write(1, b"the first goes on\n")
    with quiet(log):
        pass
    assert log.read_text() == "the first goes on\n"
    assert capfd.readouterr().out == ""


def test_a_huge_log_is_read_from_its_end_only(tmp_path):
    log = tmp_path / "log"
    log.write_text("x" * 200_000 + "\nfatal: the end\n")
    assert _telling_lines(log, 0) == ["fatal: the end"]
