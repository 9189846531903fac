"""Command-line tools: short absl mains and their dispatch."""
