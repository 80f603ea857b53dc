"""What people read of runs: the summary, comparisons, the HTML report, the live view."""

from ctwa.report.summary import summarize, summary_text, write_summary

__all__ = ["summarize", "summary_text", "write_summary"]
