"""A script for each task, to be read from top to bottom; no data are needed."""
