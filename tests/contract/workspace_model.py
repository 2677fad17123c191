"""What a workspace is, in a few lines: what live and stored ones are compared with."""

from __future__ import annotations


class Model:
    """What a workspace is: paths, each a directory (None) or a file's content."""

    def __init__(self) -> None:
        self.paths: dict[tuple[str, ...], bytes | None] = {(): None}

    def apply(
        self, operation: str, path: str, to: str = "", recursive: bool = False, data: bytes = b""
    ) -> str:
        where, there = tuple(path.split("/")), tuple(to.split("/"))
        if operation in {"write", "append", "mkdir"}:
            if problem := self._way(where):
                return problem
            if operation == "mkdir":
                if where in self.paths:
                    return "exists"
                self.paths[where] = None
                return "done"
            before = self.paths.get(where, b"")
            if before is None:
                return "is_a_directory"
            self.paths[where] = before + data if operation == "append" else data
            return "done"
        if problem := self._way(where):
            return problem
        if where not in self.paths:
            return "not_found"
        if operation == "delete":
            if len(self._below(where)) > 1 and not recursive:
                return "not_empty"
            for one in self._below(where):
                del self.paths[one]
            return "done"
        if operation == "copy" and self.paths[where] is None:
            return "is_a_directory"
        if problem := self._way(there):
            return problem
        if there in self.paths:
            return "exists"
        if there[: len(where)] == where:
            return "refused"
        for one in self._below(where):
            self.paths[there + one[len(where) :]] = self.paths[one]
            if operation == "rename":
                del self.paths[one]
        return "done"

    def _way(self, path: tuple[str, ...]) -> str:
        for length in range(1, len(path)):
            if path[:length] not in self.paths:
                return "not_found"
            if self.paths[path[:length]] is not None:
                return "not_a_directory"
        return ""

    def _below(self, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [p for p in self.paths if p[: len(path)] == path]

    def everything(self) -> dict[str, tuple[str, bytes]]:
        return {
            "/".join(path): ("directory", b"") if content is None else ("file", content)
            for path, content in self.paths.items()
            if path
        }
