"""What can go wrong with an image. Leaves of :class:`sessionkeeper.errors.SessionkeeperError`.

SessionkeeperError
└── ImageError            13
    ├── BadReference       2   what was given is no name of an image
    ├── ImageUnknown           nobody has an image of that name
    ├── ImageUnavailable  69   who keeps it does not answer; try again
    ├── ImageDamaged           what came is not what its digest says
    └── ImageUnusable          it is there, and no session can run in it
"""

from __future__ import annotations

from sessionkeeper.errors import SessionkeeperError


class ImageError(SessionkeeperError):
    """An image cannot be had, or not be used."""

    code = "image"
    exit_code = 13


class BadReference(ImageError):
    """What was given is no name of an image."""

    code = "bad_image_name"
    hint = "NAME:TAG for one that is kept here, HOST/NAME:TAG for one in a registry"
    exit_code = 2


class ImageUnknown(ImageError):
    """Nobody has an image of that name."""

    code = "image_unknown"
    hint = "`sessionkeeper launch` builds it from its repository; check its name and tag"


class ImageUnavailable(ImageError):
    """Who keeps the image does not answer, or not in full."""

    code = "image_unavailable"
    retryable = True
    hint = "check the registry and the network; it is tried again"
    exit_code = 69


class ImageDamaged(ImageError):
    """What came is not what was asked for, by its digest, or is no image."""

    code = "image_damaged"
    hint = "build it again, with `sessionkeeper launch --rebuild`"


class ImageUnusable(ImageError):
    """The image is there, and no session can run in it."""

    code = "image_unusable"
