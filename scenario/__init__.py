"""Workloads, checkers, faults and reports that run on sim or processes."""
