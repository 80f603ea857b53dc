"""The live view of a run: in a terminal, or as its report in a browser on the same machine."""
