"""Problems that outside solvers solve, and no answer of theirs that is believed unchecked.

A solver may fail without a word: scipy's ``nnls`` does so where a column is zero. Each answer is therefore held against
conditions that the right one meets (those of Karush, Kuhn and Tucker for a minimum), which costs a product or two. One
that misses them is dropped, the problem is solved another way, and the case is counted: see ``fallbacks``.
"""
