"""The Chromium of the tests: the one that scripts/test.sh names, or one on the PATH."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CTWA_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or let scripts/test.sh fetch one"
)
