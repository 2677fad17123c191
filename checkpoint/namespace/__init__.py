"""The `namespace` engine: the variables of a Python kernel, without root and without CRIU.

:mod:`~checkpoint.namespace.engine` is for whoever controls the kernel;
:mod:`~checkpoint.namespace.inside` runs in it.
"""
