"""What `ctwa prefer` composes."""
