"""The link, with every connection lost and every dump restored that Hypothesis can think of."""

from __future__ import annotations

import copy
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
)

from gateway.frames import (
    IOPUB,
    SHELL,
    Hello,
    LinkError,
    decode_payload,
    encode_ack,
    encode_data,
    encode_payload,
    kind_of,
)
from gateway.link import FencedOff, GatewayLink, Output, Resumed
from gateway.shim_link import ShimLink


class Memory:
    """Inputs in memory."""

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.last = 0

    def append(self, payload: bytes) -> int:
        self.last += 1
        self.kept[self.last] = payload
        return self.last

    def get(self, number: int, ahead: bytes = b"") -> bytes:
        return ahead + self.kept.get(number, b"")

    def void(self, number: int) -> None:
        self.kept[number] = b""

    def release(self, upto: int) -> None:
        for number in [n for n in self.kept if n <= upto]:
            del self.kept[number]

    def skip_to(self, number: int) -> None:
        self.last = max(self.last, number - 1)


class World:
    """What is dumped: the shim's link, and the kernel it stands for."""

    def __init__(self) -> None:
        self.link = ShimLink()
        self.applied: list[bytes] = []
        self.said: list[bytes] = []


class LinkMachine(RuleBasedStateMachine):
    """One kernel, one gateway; nodes are lost or left, connections break, frames are in flight.

    Claim: when all has settled, every output of the surviving life was delivered exactly once
    and in order, and every input was applied exactly once in it.
    """

    dumps = Bundle("dumps")

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.world = World()
        self.gateway = GatewayLink(Memory())
        self.delivered: list[bytes] = []
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.connected = False
        self.attached = False
        self.counter = 0
        self.covered = 0
        self.fenced = 0
        self.agent_connects()
        self.gateway_attaches()

    # -- the hops -----------------------------------------------------------------------------

    @rule()
    def agent_connects(self) -> None:
        # What the agent had of the shim is on its way still; what it had for it is gone.
        self.down.clear()
        self.world.link.connected(self.epoch)
        self.connected = True

    @rule()
    def agent_is_lost(self) -> None:
        self.up.clear()
        self.down.clear()
        self.world.link.disconnected()
        self.connected = False

    @rule()
    def gateway_attaches(self) -> None:
        self.gateway.attach(self.epoch)
        self.attached = True
        self._gateway_writes()

    @rule()
    def gateway_restarts(self) -> None:
        was = self.gateway
        self.gateway = GatewayLink(was.inputs, was.received, was.acked, was.decided)
        self.attached = False
        self.up.clear()
        self.down.clear()

    @rule()
    def all_flows(self) -> None:
        for _ in range(20):
            self.upward(5)
            self.downward(5)

    @rule(count=st.integers(1, 5))
    def upward(self, count: int) -> None:
        for _ in range(count):
            self._shim_writes()
            if not self.up:
                return
            self._gateway_reads(self.up.popleft())

    @rule(count=st.integers(1, 5))
    def downward(self, count: int) -> None:
        for _ in range(count):
            self._gateway_writes()
            if not self.down:
                return
            self._shim_reads(self.down.popleft())

    @rule()
    def gateway_acknowledges(self) -> None:
        ack = self.gateway.take_ack()
        if ack is not None:
            self.down.append(ack)

    @rule(upward=st.booleans(), which=st.integers(0, 3))
    def a_frame_is_lost(self, upward: bool, which: int) -> None:
        self._shim_writes()
        self._gateway_writes()
        frames = self.up if upward else self.down
        if which < len(frames):
            del frames[which]

    # -- the two sides ------------------------------------------------------------------------

    @rule()
    def client_asks(self) -> None:
        self.counter += 1
        self.gateway.submit(encode_payload(SHELL, [b"in %d" % self.counter]))

    @rule(count=st.integers(1, 3))
    def kernel_says(self, count: int) -> None:
        for _ in range(count):
            self.counter += 1
            message = b"out %d" % self.counter
            self.world.said.append(message)
            self.world.link.produce(self.epoch, IOPUB, [message])

    @rule()
    def inputs_are_held(self) -> None:
        self.world.link.pause()

    @rule()
    def inputs_flow(self) -> None:
        self.world.link.resume(self.epoch)

    # -- dumps and lives ----------------------------------------------------------------------

    @rule(target=dumps)
    def dump(self) -> World:
        return copy.deepcopy(self.world)

    @rule(dumped=dumps)
    def node_is_lost_and_dump_restored(self, dumped: World) -> None:
        if dumped.link.applied < self.covered or not self._is_past(dumped):
            return  # a chain of checkpoints has one end, and what it covers was released
        self._restore(copy.deepcopy(dumped))

    @rule()
    def planned_move(self) -> None:
        self._restore(copy.deepcopy(self.world))

    @rule(dumped=dumps)
    def dump_is_committed(self, dumped: World) -> None:
        if self._is_past(dumped):
            self.covered = max(self.covered, dumped.link.applied)
            self.gateway.release(dumped.link.applied)

    def _is_past(self, dumped: World) -> bool:
        said, applied = len(dumped.said), len(dumped.applied)
        return dumped.said == self.world.said[:said] and (
            dumped.applied == self.world.applied[:applied]
        )

    def _restore(self, world: World) -> None:
        stranded, was_connected = self.world, self.connected
        old = self.epoch
        self.epoch += 1
        self.world = world
        # The old incarnation may still be there, cut off; whatever it says must not be heard.
        self.gateway.attach(self.epoch)
        if was_connected:
            stranded.link.connected(old)
            stranded.link.produce(old, IOPUB, [b"ghost"])
            while (frame := stranded.link.next_frame(old)) is not None:
                self._gateway_reads(frame)
        self.attached = True
        self.up.clear()
        self.down.clear()
        self.world.link.connected(self.epoch)
        self.connected = True

    # -- wires --------------------------------------------------------------------------------

    def _shim_writes(self) -> None:
        if not self.connected:
            return
        while (frame := self.world.link.next_frame(self.epoch)) is not None:
            if self.attached:
                self.up.append(frame)

    def _gateway_writes(self) -> None:
        for frame in self.gateway.outgoing():
            if self.connected:
                self.down.append(frame)

    def _gateway_reads(self, frame: bytes) -> None:
        event = self.gateway.receive(frame)
        if isinstance(event, Output):
            assert not event.missing
            self.delivered.append(bytes(decode_payload(event.payload)[1][0]))
            self.gateway.accept(event)
        elif isinstance(event, Resumed):
            self.gateway.resume()
        elif isinstance(event, FencedOff):
            self.fenced += 1

    def _shim_reads(self, frame: bytes) -> None:
        payload = self.world.link.receive(frame, self.epoch)
        if payload is not None:
            self.world.applied.append(bytes(decode_payload(payload)[1][0]))

    @invariant()
    def ghosts_are_never_heard(self) -> None:
        assert b"ghost" not in self.delivered

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        assert len(set(self.world.applied)) == len(self.world.applied)

    def teardown(self) -> None:
        self.world.link.resume(self.epoch)
        self.agent_connects()
        self.gateway_attaches()
        for _ in range(20):
            self.upward(5)
            self.downward(5)
            self.gateway_acknowledges()
        while self.up or self.down:
            self.upward(1)
            self.downward(1)
        life = set(self.world.said)
        assert [m for m in self.delivered if m in life] == self.world.said
        assert len(self.world.applied) == self.gateway.inputs.last
        numbers = [int(m.split()[1]) for m in self.world.applied]
        assert numbers == sorted(numbers)
        self.gateway_acknowledges()
        self.downward(5)
        assert self.world.link.unacked_bytes == 0


LinkMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, print_blob=True
)
TestLink = LinkMachine.TestCase


def linked(epoch: int = 1) -> tuple[ShimLink, GatewayLink, list[Output]]:
    shim, gateway, got = ShimLink(), GatewayLink(Memory()), []
    shim.connected(epoch)
    gateway.attach(epoch)
    settle(shim, gateway, got, epoch)
    return shim, gateway, got


def settle(shim: ShimLink, gateway: GatewayLink, got: list[Output], epoch: int = 1) -> list[bytes]:
    """Pass frames until there are none; the inputs that were applied."""
    applied = []
    busy = True
    while busy:
        busy = False
        while (frame := shim.next_frame(epoch)) is not None:
            busy = True
            event = gateway.receive(frame)
            if isinstance(event, Output):
                got.append(event)
                gateway.accept(event)
            elif isinstance(event, Resumed):
                gateway.resume()
        for frame in gateway.outgoing():
            busy = True
            payload = shim.receive(frame, epoch)
            if payload is not None:
                applied.append(bytes(payload))
    return applied


def meet(shim: ShimLink, gateway: GatewayLink, epoch: int) -> Resumed:
    """Exchange HELLOs; what the gateway makes of the shim's answer."""
    shim.connected(epoch)
    for frame in gateway.outgoing():
        shim.receive(frame, epoch)
    frame = shim.next_frame(epoch)
    assert frame is not None
    event = gateway.receive(frame)
    assert isinstance(event, Resumed)
    return event


def test_a_full_shim_says_so_and_empties_with_the_acknowledgement() -> None:
    shim, gateway, got = linked()
    shim.limit = 1000
    shim.produce(1, IOPUB, [b"x" * 1000])
    assert shim.full
    settle(shim, gateway, got)
    assert shim.full
    ack = gateway.take_ack()
    assert ack is not None
    shim.receive(ack, 1)
    assert not shim.full
    assert shim.unacked_bytes == 0
    assert gateway.take_ack() is None


def test_a_shim_applies_nothing_from_another_epoch() -> None:
    shim, _, _ = linked(epoch=2)
    shim.next_frame(2)
    for epoch in (1, 3):
        frame = encode_data(epoch, 1, encode_payload(SHELL, [b"late"]))
        assert shim.receive(frame, 2) is None
        answer = shim.next_frame(2)
        assert answer is not None
        assert Hello.decode(answer).epoch == 2
    assert shim.applied == 0


def test_a_gateway_hears_nothing_stamped_above_its_epoch() -> None:
    _, gateway, _ = linked()
    assert gateway.receive(encode_data(2, 1, b"")) == FencedOff(2)
    gateway.detach()
    assert gateway.receive(encode_data(1, 1, b"")) is None


def test_a_rollback_shows_in_the_hello() -> None:
    shim, gateway, got = linked()
    saved = copy.deepcopy(shim)
    gateway.submit(encode_payload(SHELL, [b"a"]))
    settle(shim, gateway, got)
    shim.produce(1, IOPUB, [b"b"])
    settle(shim, gateway, got)
    gateway.attach(2)
    resumed = meet(saved, gateway, 2)
    assert resumed == Resumed(epoch=2, applied=0, before=1, dead_from=1)
    assert resumed.rolled_back


def test_a_rollback_is_told_once_and_nothing_said_before_the_hello_is_lost() -> None:
    shim, gateway, got = linked()
    saved = copy.deepcopy(shim)
    for _ in range(3):
        shim.produce(1, IOPUB, [b"dead"])
    settle(shim, gateway, got)
    got.clear()
    gateway.attach(2)
    saved.produce(2, IOPUB, [b"alive"])
    assert meet(saved, gateway, 2) == Resumed(epoch=2, applied=0, before=0, dead_from=1)
    gateway.resume()
    gateway.attach(2)
    assert meet(saved, gateway, 2) == Resumed(epoch=2, applied=0, before=0, dead_from=None)
    gateway.resume()
    settle(saved, gateway, got, 2)
    assert [(o.epoch, o.seq, o.missing) for o in got] == [(2, 1, 0)]


def test_a_dump_restored_without_a_new_epoch_is_refused_with_words() -> None:
    shim, gateway, got = linked()
    saved = copy.deepcopy(shim)
    shim.produce(1, IOPUB, [b"b"])
    settle(shim, gateway, got)
    gateway.attach(1)
    with pytest.raises(LinkError, match="without a new epoch"):
        meet(saved, gateway, 1)


def test_outputs_lost_with_the_journals_end_are_counted() -> None:
    shim, gateway, got = linked()
    for _ in range(5):
        shim.produce(1, IOPUB, [b"x"])
    settle(shim, gateway, got)
    ack = gateway.take_ack()
    assert ack is not None
    shim.receive(ack, 1)
    shim.produce(1, IOPUB, [b"y"])
    forgetful = GatewayLink(Memory(), received=(1, 3))
    forgetful.attach(1)
    shim.connected(1)
    got.clear()
    settle(shim, forgetful, got)
    assert [(o.seq, o.missing) for o in got] == [(6, 2)]


def test_an_output_that_could_not_be_written_down_comes_again() -> None:
    shim, gateway, got = linked()
    shim.produce(1, IOPUB, [b"x"])
    frame = shim.next_frame(1)
    assert frame is not None
    assert isinstance(gateway.receive(frame), Output)
    gateway.ask_again()
    assert gateway.take_ack() is None
    settle(shim, gateway, got)
    assert [o.seq for o in got] == [1]


def test_an_output_lost_on_the_way_comes_again_in_its_place() -> None:
    shim, gateway, got = linked()
    for text in (b"1", b"2", b"3"):
        shim.produce(1, IOPUB, [text])
    shim.next_frame(1)
    settle(shim, gateway, got)
    assert [o.seq for o in got] == [1, 2, 3]


def test_an_input_lost_on_the_way_comes_again_in_its_place() -> None:
    shim, gateway, got = linked()
    for text in (b"1", b"2", b"3"):
        gateway.submit(encode_payload(SHELL, [text]))
    _, *rest = gateway.outgoing()
    assert [shim.receive(frame, 1) for frame in rest] == [None, None]
    assert len(settle(shim, gateway, got)) == 3
    assert shim.applied == 3


def test_an_output_that_comes_twice_counts_once() -> None:
    shim, gateway, got = linked()
    shim.produce(1, IOPUB, [b"1"])
    frame = shim.next_frame(1)
    for _ in range(2):
        event = gateway.receive(frame)
        if isinstance(event, Output):
            gateway.accept(event)
            got.append(event)
    assert len(got) == 1


def test_nothing_is_taken_between_two_hellos() -> None:
    shim, gateway, got = linked()
    shim.produce(1, IOPUB, [b"early"])
    early = shim.next_frame(1)
    gateway.attach(1)
    assert gateway.receive(early) is None
    settle(shim, gateway, got)
    assert [o.seq for o in got] == [1]


def test_hello_of_another_epoch_is_refused() -> None:
    _, gateway, _ = linked(epoch=2)
    for epoch in (1, 3):
        for answer in (True, False):
            hello = Hello(epoch, (epoch, 0), 1, answer, 1)
            assert gateway.receive(hello.encode()) == FencedOff(epoch)


def test_a_withdrawn_input_is_applied_as_nothing() -> None:
    shim, gateway, got = linked()
    number = gateway.submit(encode_payload(SHELL, [b"a"]))
    gateway.inputs.void(number)
    assert settle(shim, gateway, got) == [b""]
    assert shim.applied == 1


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x09",
        b"\x02\x00",
        b"\x01not json",
        b"\x01[]",
        b'\x01{"version": [1, 0]}',
        b'\x01{"version": [1, 0], "epoch": 1, "received": 3, "next": 1}',
    ],
)
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    gateway = GatewayLink(Memory())
    gateway.attach(1)
    gateway._greeted = gateway._flowing = True
    with pytest.raises(LinkError):
        gateway.receive(frame)
    with pytest.raises(LinkError):
        ShimLink().receive(frame, 1)


def test_another_major_version_is_refused_with_words() -> None:
    frame = b'\x01{"version": [2, 0], "epoch": 1, "received": [1, 0], "next": 1}'
    with pytest.raises(LinkError, match="link protocol 2"):
        Hello.decode(frame)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\x00\x01", b"\x00\x00\x01" + b"\xff" * 8, encode_payload(0, []) + b"x"]
)
def test_what_is_no_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(LinkError):
        decode_payload(payload)


def test_frames_come_back_as_they_were() -> None:
    parts = [b"header", b"", b"x" * 100_000]
    channel, got = decode_payload(encode_payload(IOPUB, parts))
    assert (channel, [bytes(p) for p in got]) == (IOPUB, parts)
    hello = Hello(3, (2, 7), 9, True)
    assert Hello.decode(hello.encode()) == hello
    assert kind_of(encode_ack(1, 2)) == 3
