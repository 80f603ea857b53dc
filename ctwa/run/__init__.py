"""What a run writes and says: its folder, trace, samples, events, alarms, console. Knows no engine and no method."""

from ctwa.run.console import ConsoleReporter
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.follow import Follower, following
from ctwa.run.log import RunFailed, quiet
from ctwa.run.trace import Event, EventWriter, Record, SampleWriter, TraceWriter, read_trace

__all__ = [
    "ConsoleReporter",
    "Event",
    "EventWriter",
    "Follower",
    "ObjectiveInfo",
    "Record",
    "RunFailed",
    "RunFolder",
    "RunInfo",
    "SampleWriter",
    "TraceWriter",
    "following",
    "quiet",
    "read_trace",
]
