"""`sessionkeeper up`: the supervisor of everything that runs on this machine."""
