"""What runs in the injected containers. Nothing is imported here: a notebook waits for each of them."""
