"""The engine: what drives a model over iterations, files and processes."""
