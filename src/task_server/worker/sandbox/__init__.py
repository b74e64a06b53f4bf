"""Keeping strangers' code in its place: one layer a file, put together in `sandbox`.

The agent decides here what a runner may do, and tries it in `probes` when it starts. What is done
in the runner itself stands in `child.py`, which gets it as a plan.
"""
