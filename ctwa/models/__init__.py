"""Model folders: what is wrong with one, before anything loads it."""
