"""Replies are for who asked: and a client that lost its connection may come under another name."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_shown_once import Scene

from gateway.feed import Delivery, Feed, Replies
from gateway.frames import SHELL, encode_payload


class Client:
    def __init__(self, scene: Scene, session: str, replies: Replies = "own") -> None:
        self.got: list[int] = []
        position = scene.channel.outlet.last_cursor
        self.feed = Feed(
            scene.channel.outlet, self.write, session, position, lambda: None, replies=replies
        )
        scene.channel.outlet.attach(self.feed)

    def write(self, delivery: Delivery) -> None:
        if delivery.payload[0] == SHELL:
            self.got.append(delivery.cursor)


def ask(scene: Scene, session: str, msg_id: str) -> None:
    header = scene.header(msg_id, "execute_request").replace(b'"s"', b'"%s"' % session.encode())
    scene.channel.submit(encode_payload(SHELL, [header, b"{}", b"{}", b'{"code": "x"}']))
    scene.settle()


def reply(scene: Scene, session: str, msg_id: str) -> None:
    parent = b'{"msg_id": "%s", "session": "%s"}' % (msg_id.encode(), session.encode())
    parts = [scene.header("-", "execute_reply"), parent, b"{}", b'{"status": "ok"}']
    scene.shim.produce(scene.epoch, SHELL, parts)
    scene.settle()


async def test_client_that_comes_back_under_another_session_gets_the_reply_it_waits_for(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    dying = Client(scene, "before")
    ask(scene, "before", "a")
    back = Client(scene, "after", "maybe own")
    reply(scene, "before", "a")
    assert len(back.got) == 1
    scene.channel.outlet.detach(dying.feed)
    ask(scene, "before", "b")
    reply(scene, "before", "b")
    assert len(back.got) == 2


@pytest.mark.parametrize(("replies", "count"), [("own", 0), ("maybe own", 0), ("all", 1)])
async def test_reply_for_a_client_that_came_later_is_its_own(
    tmp_path: Path, replies: Replies, count: int
) -> None:
    scene = Scene(tmp_path)
    here = Client(scene, "here", replies)
    other = Client(scene, "other")
    ask(scene, "other", "a")
    reply(scene, "other", "a")
    assert (len(here.got), len(other.got)) == (count, 1)
