"""Hand-tuned layers: convolution, pooling, resizing, normalisation, activations."""
