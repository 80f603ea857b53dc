"""Language models and scorers behind an HTTP endpoint: requests, attempts, replies, what they cost.

Nothing is imported here: the worker processes of reward functions import this package, and need no torch.
"""
