"""What a trained workdir is used for: predictions, an exported network, retrieval."""
