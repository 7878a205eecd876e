"""The placement on a cluster of three nodes: the kit, and replicas of a model that answer as they do in this process, whatever befalls a
node. Seats on one node are reached by sockets, and those on the other by calls of Ray."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import llmasos
from llmasos_hookspecs import LLMasOSError, SeatSpec
from llmasos_hookspecs.seat_program import ENTRY
from llmasos_hookspecs.testing import PlacementConformance
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_placement_ray import Options

from .conftest import ADDRESS, ELSEWHERE

if TYPE_CHECKING:
    from .conftest import Nodes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nodes")]

SECONDS = 120.0  # after which somebody counts as one who waits for ever
LOADER = {"use": "onnx", "precision": "fp32", "threads": 1}
#: Seats of half a node, so that one node that is left holds both.
PLACEMENT = {"use": "ray", "cpus": 1, "silence": 4, "start_timeout": 60}
MODEL = {"context_length": 1024}
SEQUENCES = 4  # that a replica runs at once
PROMPTS = [f"{number} otters sleep in the river" for number in range(32)]
SAMPLING: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}


class TestConformance(PlacementConformance):
    module = "llmasos_placement_ray"


@pytest.mark.long
class TestConformanceByCalls(PlacementConformance):
    module = "llmasos_placement_ray"
    options = {"channel": "ray"}  # noqa: RUF012 - plain, as an author writes it


@pytest.mark.long
class TestConformanceBySockets(PlacementConformance):
    module = "llmasos_placement_ray"
    options = {"channel": "socket"}  # noqa: RUF012


def pause(process: psutil.Process) -> None:
    """Returns once it is: until the signal reaches the thread that takes it, the others run on."""
    process.suspend()
    until(lambda: process.status() == psutil.STATUS_STOPPED, f"process {process.pid} does not stop")


@pytest.mark.parametrize("channel", [pytest.param("ray", marks=pytest.mark.long), "socket"])
def test_a_seat_that_is_paused_is_lost_and_what_it_says_later_is_dropped(channel: str, nodes: Nodes) -> None:
    """However its messages travel. It is ended where it wakes, and its connection is closed."""
    from llmasos_placement_ray.placement import RayPlacement

    def connections() -> int:
        return len([each for each in psutil.Process().net_connections("tcp") if each.raddr and each.raddr.ip == ADDRESS])

    told, ends = SimpleQueue[bytes](), SimpleQueue[str]()
    options = Options(address=nodes.address, channel=channel, silence=1, cpus=1, resources={ELSEWHERE: 0.01})
    with contextlib.closing(RayPlacement(options)) as placement:
        seat = placement.start(SeatSpec(model="m", number=0, entry=ENTRY, path=tuple(sys.path)), told.put, ends.put)
        assert seat.send(b"pid")
        process = psutil.Process(int(told.get(timeout=SECONDS)))
        assert connections() == (channel == "socket")
        pause(process)
        seat.send(b"echo late")
        assert ends.get(timeout=SECONDS) == "gave no sign of life for 1 seconds (placement.silence), and was ended"
        process.resume()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the seat that counts as lost runs on")
        assert told.empty()
        assert not seat.send(b"echo more")
        assert connections() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    tiny_checkpoint("llama", seed=3, folder=path, max_position_embeddings=2048)
    return path


def mixed(model: llmasos.LanguageModel) -> list[Any]:
    """What 40 requests come to: texts, streams, scores, constrained answers, samples and logits."""
    texts = [each.text for each in model.batch(PROMPTS[:24], **SAMPLING)]
    streams = ["".join(model.stream(prompt, **SAMPLING)) for prompt in PROMPTS[24:28]]
    scores = [model.choose(prompt, ["a river", "a den"]) for prompt in PROMPTS[:4]]
    constrained = [model.generate_text(prompt, regex="[0-9]{4}", max_new_tokens=8) for prompt in PROMPTS[:4]]
    sampled = [each.text for each in model.generate(PROMPTS[0], n=3, temperature=1.0, seed=5, **SAMPLING)]
    return [texts, streams, [each.index for each in scores], constrained, sampled, model.logits([1, 2, 3]).tolist()]


@pytest.fixture(scope="module")
def model(folder: Path, nodes: Nodes) -> Iterator[llmasos.LanguageModel]:
    """Two replicas, one on each node."""
    config = {
        "model": {"source": str(folder), "replicas": 2, **MODEL},
        "loader": LOADER,
        "scheduler": {"use": "fifo", "max_sequences": SEQUENCES},
        "placement": PLACEMENT,
    }
    with llmasos.Pipeline.from_config(config) as pipeline:
        yield pipeline.load()


def replicas(model: llmasos.LanguageModel) -> list[dict[str, Any]]:
    return list(model.usage()["replicas"])


def node_of(replica: dict[str, Any]) -> str:
    return str(replica["where"]).partition(",")[0]


def until(true: Callable[[], object], what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + SECONDS, what
        time.sleep(0.05)
    return time.monotonic() - began


def whole(model: llmasos.LanguageModel) -> bool:
    return [each["state"] for each in replicas(model)] == ["ready", "ready"]


def test_answers_are_those_of_this_process(model: llmasos.LanguageModel, folder: Path) -> None:
    """Texts, streams, scores, constrained answers, samples and logits; each replica is on a node of its own."""
    found = replicas(model)
    assert {node_of(each) for each in found} == {"node-1", "node-2"}
    assert all(each["where"].endswith(f", pid {each['pid']}") for each in found)
    with llmasos.load_model(str(folder), loader=LOADER, **MODEL) as alone:
        assert mixed(model) == mixed(alone)


def test_nothing_that_a_seat_is_told_or_says_is_a_pickle(model: llmasos.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sends bytes as they are, and lists of texts and bytes as MessagePack; what has neither form it would pickle, in either
    direction. One of the two replicas is reached by calls of Ray."""
    from ray._private.serialization import SerializationContext

    pickled, said = list[object](), Counter[str]()

    def sent(_: SerializationContext, metadata: bytes, value: object) -> object:
        pickled.append(value)
        raise TypeError(f"{value!r} is no plain data")

    def received(_: SerializationContext, data: object, tensors: object) -> object:
        pickled.append(data)
        raise TypeError("a seat sent a pickle")

    monkeypatch.setattr(SerializationContext, "_serialize_to_pickle5", sent)
    monkeypatch.setattr(SerializationContext, "_deserialize_pickle5_data", received)
    plain = SerializationContext._deserialize_msgpack_data

    def counted(*call: Any) -> object:
        said.update(["answers"])
        return plain(*call)

    monkeypatch.setattr(SerializationContext, "_deserialize_msgpack_data", counted)
    assert len(model.batch(PROMPTS[:8], **SAMPLING)) == 8
    assert model.choose(PROMPTS[0], ["a river", "a den"]).index in (0, 1)
    assert pickled == []
    assert said["answers"] > 4, "the test sees what Ray reads"


def outcomes(model: llmasos.LanguageModel, strike: Callable[[], object]) -> list[str | LLMasOSError]:
    """Strike once more answers are on their way than one replica gives at once, so that each replica is in the midst of some; what 32
    requests come to, each of which ends once."""
    begun: set[int] = set()
    ends: Counter[int] = Counter()
    tickets = [model._submit(prompt, SAMPLING | {"max_new_tokens": 200}) for prompt in PROMPTS]
    for number, ticket in enumerate(tickets):
        ticket.listen(lambda _, number=number: begun.add(number))
        ticket.add_done_callback(lambda number=number: ends.update([number]))
    until(lambda: len(begun.difference(list(ends))) > SEQUENCES, "the replicas never answered side by side")
    strike()
    found: list[str | LLMasOSError] = []
    for ticket in tickets:
        try:
            found.append(ticket.result(SECONDS).text)
        except LLMasOSError as error:
            found.append(error)
    assert not [each for each in found if isinstance(each, TimeoutError)], "somebody waits for ever"
    assert set(ends.values()) == {1}
    assert len(ends) == len(tickets)
    return found


def check(found: list[str | LLMasOSError], model: llmasos.LanguageModel, words: str, *, least: int = 1) -> None:
    """Who got a text got the right one, and who got none was told why; ``least``: how many these are."""
    told = [each for each in found if isinstance(each, LLMasOSError)]
    assert least <= len(told) < len(found)
    assert all(words in str(each) for each in told), told
    again = [each.text for each in model.batch(PROMPTS, **SAMPLING | {"max_new_tokens": 200})]
    assert all(text == right for text, right in zip(found, again, strict=True) if isinstance(text, str))


def test_a_node_that_is_killed_takes_only_what_it_had_begun_with_it(model: llmasos.LanguageModel, nodes: Nodes) -> None:
    """Each request is answered or fails once with a reason, and the replica starts again on a node that is left. How long both took is
    printed (``pytest -s``): a quiet machine knows of the loss within 5 seconds, and has another replica within 30."""
    (number, victim) = next((number, each) for number, each in enumerate(replicas(model)) if node_of(each) != ELSEWHERE)
    name = node_of(victim)
    times: list[float] = []

    def lost() -> bool:
        return bool(replicas(model)[number]["pid"] != victim["pid"])

    def kill() -> None:
        watch = threading.Thread(target=lambda: times.append(until(lost, "nobody noticed the loss")))
        watch.start()
        psutil.Process(victim["pid"]).kill()  # with the node: on its own it notices a moment later, when it may have answered
        nodes.remove(name)
        watch.join()

    began = time.monotonic()
    found = outcomes(model, kill)
    until(lambda: whole(model) and lost(), "no replica took the place of the one that was lost")
    print(f"The loss was known after {times[0]:.1f} s, and made good within {time.monotonic() - began:.1f} s, all answers included.")
    assert {node_of(each) for each in replicas(model)} == {"node-1", "node-2"} - {name}
    check(found, model, f"Replica {victim['replica']} of default ")


@pytest.mark.long
def test_a_node_that_is_paused_is_fenced(model: llmasos.LanguageModel, nodes: Nodes) -> None:
    """It counts as lost; what its seat says when it wakes reaches nobody, and the seat is ended."""
    nodes.add("node-3")
    nodes.cluster.wait_for_nodes(SECONDS)
    victim = replicas(model)[0]
    seat, raylet = psutil.Process(victim["pid"]), psutil.Process(nodes.raylet(node_of(victim)))

    def pause_both() -> None:
        pause(raylet)
        pause(seat)

    found = outcomes(model, pause_both)
    check(found, model, "gave no sign of life for 4 seconds")
    until(lambda: whole(model), "no replica took the place of the one that was lost")
    seat.resume()
    raylet.resume()
    until(lambda: not seat.is_running() or seat.status() == psutil.STATUS_ZOMBIE, "the seat that counts as lost runs on")
    assert mixed(model)


@pytest.mark.long
def test_twenty_kills_in_a_row_lose_nothing_silently(model: llmasos.LanguageModel) -> None:
    """Of processes and at moments drawn at random: each request is answered rightly or fails once with the reason."""
    chance = random.Random(7)
    for _ in range(20):
        victim = chance.choice(replicas(model))

        def kill(victim: dict[str, Any] = victim) -> None:
            time.sleep(chance.uniform(0, 0.5))
            psutil.Process(victim["pid"]).kill()

        found = outcomes(model, kill)
        until(lambda: whole(model), "no replica took the place of the one that was lost")
        check(found, model, f"Replica {victim['replica']} of default ", least=0)
