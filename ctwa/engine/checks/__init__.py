"""All that can be known before anything expensive starts.

What checks raises a CtwaError, which says what is wrong, where, and what to write instead.
"""
