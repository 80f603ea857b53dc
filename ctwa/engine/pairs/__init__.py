"""Preference alignment on verl's training workers: `ctwa prefer` and `ctwa caid`."""
