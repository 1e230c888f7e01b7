"""The kinds of stages an experiment is made of, their plan, and the networks they leave."""
