"""Uses a trained workdir: predictions, exported networks, cross-domain retrieval."""
