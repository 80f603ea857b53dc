"""Rows of a user's own, whatever their file and their columns, as the one form that everything else reads.

Nothing is imported here, and nothing in it needs torch: a mistake in the data is told at once.
"""
