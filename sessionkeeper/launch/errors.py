"""What can go wrong between a repository and its session.

SessionkeeperError
├── SourceUnknown   14   no such repository, or no such branch, tag or commit in it
├── BuilderMissing  10   neither podman nor docker is here, or no repo2docker
├── BuildFailed     15   the repository could not be built; its log says why
└── LaunchFailed    16   there is an image, and no session came up in it
"""

from __future__ import annotations

from sessionkeeper.errors import SessionkeeperError


class SourceUnknown(SessionkeeperError):
    """No such repository, or nothing of that name in it."""

    code = "source_unknown"
    hint = "check the address and the branch, tag or commit, and that the repository is public"
    exit_code = 14


class BuilderMissing(SessionkeeperError):
    """Nothing here can build an image."""

    code = "builder_missing"
    hint = "install podman (or docker), and `pip install 'sessionkeeper[launch]'`"
    exit_code = 10


class BuildFailed(SessionkeeperError):
    """The repository could not be built."""

    code = "build_failed"
    hint = "the log above says why; nothing of it is left running"
    exit_code = 15


class LaunchFailed(SessionkeeperError):
    """There is an image, and no session came up in it."""

    code = "launch_failed"
    hint = "`sessionkeeper node list` and the gateway's log say more"
    exit_code = 16
