"""A Kubernetes cluster for tests: see `cluster.api` for what it models, and what not."""
