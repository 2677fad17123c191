"""Images for the tests: real ones, made of this machine's Python without a network."""
