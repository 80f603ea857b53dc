"""What a run leaves on disk, and what its user sees of it. Knows no engine and no method.

Figures are in `ctwa.monitor.figures`, which imports matplotlib.
"""

from ctwa.monitor.comparison import compare
from ctwa.monitor.console import ConsoleReporter
from ctwa.monitor.follow import Follower, follow, following
from ctwa.monitor.logs import RunFailed, quiet
from ctwa.monitor.run import ObjectiveInfo, RunFolder, RunInfo
from ctwa.monitor.summary import summarize, summary_text, write_summary
from ctwa.monitor.trace import Event, EventWriter, Record, SampleWriter, TraceWriter, read_trace

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
    "compare",
    "follow",
    "following",
    "quiet",
    "read_trace",
    "summarize",
    "summary_text",
    "write_summary",
]
