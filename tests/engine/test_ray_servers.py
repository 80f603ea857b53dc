"""The death of one of Ray's own processes is seen at once."""

from __future__ import annotations

import subprocess
import threading

from ctwa.engine.ray_servers import seen


def test_a_server_that_dies_is_named_and_one_that_lives_is_not() -> None:
    said, died = list[str](), threading.Event()

    def note(text: str) -> None:
        said.append(text)
        died.set()

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as raylet, subprocess.Popen(["cat"], stdin=-1) as gcs:
        with seen({"raylet": raylet.pid, "GCS": gcs.pid}, note):
            pass
        assert said == []  # the run is over, and both live
        with seen({"raylet": raylet.pid, "GCS": gcs.pid}, note):
            raylet.kill()
            assert died.wait(60)
        gcs.kill()

    expected = f"Ray's raylet (process {raylet.pid}) has died: it was killed, or crashed, or was told to end"
    assert said == [expected]
