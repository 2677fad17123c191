"""The gateway process's side of a session: where it is, its checkpoints, its workspace."""
