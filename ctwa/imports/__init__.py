"""Runs of other trainers as traces of ctwa: what they logged of each reward, so that a report can be made of it."""
