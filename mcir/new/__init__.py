"""Option files for a user's own images: inspect folders, choose a network, and fit a training into a time budget."""
