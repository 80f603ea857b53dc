"""``python -m ctwa.cli``."""

from ctwa.cli import main

main()
