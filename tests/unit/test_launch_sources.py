"""What is to be launched: specs, paths, URLs, and which commit they mean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sessionkeeper.images.reference import parse
from sessionkeeper.launch.errors import SourceUnknown
from sessionkeeper.launch.events import Event, logged
from sessionkeeper.launch.sources import (
    Source,
    chosen,
    hash_of,
    of_argument,
    of_provider,
    resolve,
)

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("provider", "spec", "url", "ref"),
    [
        ("gh", "ann/course/main", "https://github.com/ann/course", "main"),
        ("gh", "ann/course.git/feature/x", "https://github.com/ann/course", "feature/x"),
        ("gl", "group%2Fsub%2Fcourse/v1", "https://gitlab.com/group/sub/course", "v1"),
        ("git", "https%3A%2F%2Fexample.org%2Fx.git/HEAD", "https://example.org/x.git", "HEAD"),
        ("gist", "ann/0123abcd", "https://gist.github.com/ann/0123abcd", "HEAD"),
        ("gist", "ann/0123abcd/main", "https://gist.github.com/ann/0123abcd", "HEAD"),
        ("path", "%2Fsrv%2Fcourse", "/srv/course", ""),
        ("path", "%2Fsrv%2Fcourse/main", "file:///srv/course", "main"),
    ],
)
def test_spec_of_a_provider_is_read(provider: str, spec: str, url: str, ref: str):
    source = of_provider(provider, spec)
    assert (source.url, source.ref) == (url, ref)


@pytest.mark.parametrize(
    ("provider", "spec"),
    [
        ("gh", "ann/course"),
        ("gh", "../../etc/x"),
        ("gh", "ann/course/--upload-pack=x"),
        ("git", "ext%3A%3Ash%20-c%20x/HEAD"),
        ("git", "%2Fetc/HEAD"),
        ("git", "file%3A%2F%2F%2Fetc/HEAD"),
        ("git", "-x/HEAD"),
        ("svn", "a/b/c"),
    ],
)
def test_spec_that_names_nothing_is_refused_in_words(provider: str, spec: str):
    with pytest.raises(SourceUnknown):
        of_provider(provider, spec)


def test_what_is_typed_is_a_path_or_a_url(tmp_path: Path):
    (tmp_path / "course").mkdir()
    assert of_argument("course", None, tmp_path).url == str(tmp_path / "course")
    assert of_argument("course", "v1", tmp_path).url == f"file://{tmp_path}/course"
    github = of_argument("https://github.com/ann/course.git", None, tmp_path)
    assert (github.provider, github.spec) == ("gh", "ann/course/HEAD")
    other = of_argument("http://127.0.0.1:1/x/y.git", "v1", tmp_path)
    assert (other.provider, of_provider("git", other.spec)) == ("git", other)
    with pytest.raises(SourceUnknown):
        of_argument("nowhere", None, tmp_path)


def test_branch_comes_before_tag_and_of_a_tag_its_commit():
    listed = f"{'a' * 40}\trefs/tags/v1\n{'b' * 40}\trefs/tags/v1^{{}}\n"
    assert chosen(listed, "v1") == "b" * 40
    assert chosen(f"{listed}{'c' * 40}\trefs/heads/v1\n", "v1") == "c" * 40
    assert chosen(f"{'d' * 40}\tHEAD\n", "HEAD") == "d" * 40
    assert chosen(listed, "1") is None


def test_image_is_named_by_repository_and_commit():
    source = Source("git", "", "https://example.org/Ann/My_Course.git", "x", SHA)
    image = parse(source.image)
    assert image.name.startswith("r2d-ann-my-course-")
    assert image.tag == SHA
    other = Source("git", "", "https://example.org/Ann/My-Course.git", "x", SHA)
    assert other.slug == source.slug
    assert other.image != source.image


def test_link_that_will_always_mean_this_commit_names_it():
    source = Source("gh", "ann/course/feature/x", "https://github.com/ann/course", "feature/x", SHA)
    assert source.persistent_request == f"v2/gh/ann/course/{SHA}"
    assert source.ref_url == f"https://github.com/ann/course/tree/{SHA}"


def test_directory_is_known_by_what_is_in_it(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    (tmp_path / ".git").mkdir()
    before = hash_of(tmp_path)
    (tmp_path / ".git" / "index").write_text("x")
    os.utime(tmp_path / "a", (0, 0))
    assert hash_of(tmp_path) == before
    (tmp_path / "a").chmod(0o755)
    changed = [hash_of(tmp_path)]
    (tmp_path / "b").symlink_to("a")
    changed.append(hash_of(tmp_path))
    (tmp_path / "a").rename(tmp_path / "c")
    changed.append(hash_of(tmp_path))
    assert len({before, *changed}) == 4


@pytest.mark.needs("git")
async def test_ref_is_resolved_by_asking_the_repository(tmp_path: Path):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "one")
    commit = git("rev-parse", "HEAD")
    git("tag", "-a", "v1", "-m", "v1")
    for ref in ("HEAD", "main", "v1", commit):
        assert (await resolve(of_argument(str(tmp_path), ref, tmp_path))).commit == commit
    with pytest.raises(SourceUnknown, match="no branch or tag 'other'"):
        await resolve(of_argument(str(tmp_path), "other", tmp_path))
    with pytest.raises(SourceUnknown):
        await resolve(of_argument(f"file://{tmp_path}/none", "HEAD", tmp_path))


def test_log_of_a_build_becomes_events_of_its_phase():
    said = logged('{"message": "Cloning\\n", "phase": "fetching"}', "waiting")
    assert said == Event("fetching", "Cloning\n")
    assert logged('{"message": "Picked Git"}', "fetching") == Event("fetching", "Picked Git\n")
    assert logged("no JSON at all", "building") == Event("building", "no JSON at all\n")
    # That a build failed is said once, at its end.
    assert logged('{"message": "x", "phase": "failed"}', "building").phase == "building"
    assert logged('{"message": "x", "phase": "ruined"}', "building").phase == "building"
