"""The engine: the only package that imports verl and ray.

Nothing is imported here, so that each process pays for what it uses.
"""
