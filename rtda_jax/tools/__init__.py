"""Measuring and checking a run: cost tables, audits, environment, memory allocator."""
