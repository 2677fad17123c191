"""The UI server: stock jupyter-server and JupyterLab, with the session's workspace and kernels.

No user code runs here. Files, kernels and their messages come from the gateway; what this
process keeps (notebook sessions, lab settings) is in the state directory, so that it can be
stopped and started at any time.
"""
