"""Scenario files: what they may say, how they run, and what came of it."""
