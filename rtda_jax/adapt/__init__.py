"""Adaptation: terms, views, adversaries, teachers, pseudo-labels, and the step that joins them."""
