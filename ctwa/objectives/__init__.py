"""What is optimised: objectives, the reward function contract, guarded evaluation.

Nothing is imported here: the worker processes import this package, and need neither torch nor pydantic.
"""
