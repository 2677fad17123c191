"""A whole sessionkeeper for tests: everything that `sessionkeeper up` starts, and a client to it."""
