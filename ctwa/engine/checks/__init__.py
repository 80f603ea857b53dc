"""All that can be known before anything expensive starts: what is wrong, where, and what to write instead."""
