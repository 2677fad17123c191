"""A whole sessionkeeper for tests: all that `sessionkeeper up` starts, and a client to it."""
