"""Names and texts as a terminal takes them."""

from __future__ import annotations

from ctwa.run.text import clean, clean_lines


def test_a_name_keeps_what_joins_its_letters_and_loses_what_moves_the_cursor() -> None:
    assert clean("می\u200cخواهم 👩\u200d💻\u202e\x1b[2J\n") == "می\u200cخواهم 👩\u200d💻��[2J "
    assert clean_lines("one\x07\ntwo") == "one�\ntwo"
