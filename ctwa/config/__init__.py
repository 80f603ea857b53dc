"""The Hydra configuration of `ctwa train`, composed over verl's own."""
