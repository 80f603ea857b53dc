"""Rollout backends of our own beside verl's."""
