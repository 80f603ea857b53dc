import pytest

from ctwa.run import EventWriter, Follower, RunFolder, TraceWriter, following
from ctwa.run.jsonl import JsonLinesTail


class Listener:
    def __init__(self):
        self.heard = []

    def past(self, record):
        self.heard.append(("past", record["step"]))

    def record(self, record):
        self.heard.append(("record", record["step"]))

    def event(self, event):
        self.heard.append(("event", event["text"]))

    def new(self):
        heard, self.heard = self.heard, []
        return heard


class Clock:
    """Every look is a second later, across all writers of a run."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_records_are_reported_once_when_they_come(run):
    listener = Listener()
    follower = Follower(run, listener)
    follower.poll()  # before the file exists
    with TraceWriter(run.metrics) as writer:
        writer.write(0, {})
        follower.poll()
        assert listener.new() == [("record", 0)]
        follower.poll()
        assert listener.new() == []
        writer.write(1, {})
        writer.write(2, {})
        follower.poll()
        assert listener.new() == [("record", 1), ("record", 2)]


def test_a_line_is_reported_when_it_is_whole(run):
    listener = Listener()
    follower = Follower(run, listener)
    line = b'{"schema": 2, "step": 1, "time": 1.0, "metrics": {}}\n'
    with run.metrics.open("wb", buffering=0) as file:
        for index in range(len(line)):
            follower.poll()
            assert listener.new() == []
            file.write(line[index : index + 1])
    follower.poll()
    assert listener.new() == [("record", 1)]


def test_records_and_events_come_in_the_order_of_their_times(run):
    listener, clock = Listener(), Clock()
    follower = Follower(run, listener)
    with TraceWriter(run.metrics, clock=clock) as trace, EventWriter(run.events, clock=clock) as events:
        events.write("engine", "up")
        trace.write(1, {})
        events.write("checkpoint", "saved", step=1)
        trace.write(2, {})
    follower.poll()
    assert listener.new() == [("event", "up"), ("record", 1), ("event", "saved"), ("record", 2)]


def test_a_resumed_run_reports_what_is_run_again_and_not_what_stayed(run):
    listener, clock = Listener(), Clock()
    with TraceWriter(run.metrics, clock=clock) as trace, EventWriter(run.events, clock=clock) as events:
        for step in range(5):
            trace.write(step, {})
        events.write("engine", "up")
    run.events.write_bytes(run.events.read_bytes() + b'{"half')
    follower = Follower(run, listener)
    assert listener.new() == [("past", step) for step in range(5)]
    with TraceWriter(run.metrics, resume_after=2, clock=clock) as trace, EventWriter(run.events, clock=clock) as events:
        follower.poll()
        assert listener.new() == []
        events.write("resume", "continues after step 2")
        trace.write(3, {})
        follower.poll()
        assert listener.new() == [("event", "continues after step 2"), ("record", 3)]
        trace.write(4, {})
    follower.poll()
    assert listener.new() == [("record", 4)]


def test_a_file_cut_in_place_is_read_again(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"schema": 2, "a": 1}\n{"schema": 2, "a": 2}\n')
    tail = JsonLinesTail(path)
    assert tail.poll() == [{"schema": 2, "a": 1}, {"schema": 2, "a": 2}]
    with path.open("r+") as file:
        file.truncate(0)
        file.write('{"schema": 2, "a": 3}\n')
    assert tail.poll() == [{"schema": 2, "a": 3}]


def test_all_that_was_written_is_reported_when_the_following_ends(run):
    listener = Listener()
    # An interval the body does not outlive: only the last look, at the end, can have found the records.
    with following(run.path, listener, interval=3600.0), TraceWriter(run.metrics) as trace:
        trace.write(0, {})
        trace.write(1, {})
    assert listener.new() == [("record", 0), ("record", 1)]


def test_following_ends_with_an_error_of_the_body(run):
    listener = Listener()

    def fail():
        with following(run, listener, interval=3600.0), TraceWriter(run.metrics) as trace:
            trace.write(0, {})
            raise RuntimeError("the trainer died")

    with pytest.raises(RuntimeError, match="the trainer died"):
        fail()
    assert listener.new() == [("record", 0)]
