"""The UI server: stock jupyter-server and JupyterLab, with the session's workspace and kernels.

No user code runs here. Files, kernels, notebook sessions and messages come from the gateway; what
this process keeps (lab settings and layouts, how far each tab is) is in its state directory, so
that it can be stopped and started at any time.
"""
