"""From a repository to a session in its image: what BinderHub does, on one machine.

sources     what a path, a URL or a provider's spec means, and which commit that is now
engine      what repo2docker builds with: podman or docker, whichever is there
build       repo2docker as a process, its log as events, the image into the store
launches    all of it, one after the other; several who want the same image share its build
handlers    BinderHub's HTTP API and pages
"""
