"""Adaptation: terms, views, adversaries, teachers, pseudo-labels, and the training step."""
