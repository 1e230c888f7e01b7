"""Keeps long runs alive: working directory, checkpoints, log, health, signals and processes."""
