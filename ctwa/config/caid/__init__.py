"""What `ctwa caid` composes."""
