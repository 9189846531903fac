"""Benchmarks beside peers, run by `keras-gpt benchmark`."""
