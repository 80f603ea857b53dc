"""The gradients of several objectives at one policy: kept, measured and combined, in whatever trainer takes them."""
