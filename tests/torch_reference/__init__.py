"""PyTorch statements of the networks, written for the tests, with the public names of weights."""
