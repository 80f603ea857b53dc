"""What the tests of plans share."""

from __future__ import annotations

from tests.composing import files_parsed_once as files_parsed_once
