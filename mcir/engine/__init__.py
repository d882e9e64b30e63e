"""Training, evaluation and testing of models: loops, files, logs and processes."""
