"""The paper's tables as commands: what stands in them, how each row is made again, and the pages that tell of it."""
