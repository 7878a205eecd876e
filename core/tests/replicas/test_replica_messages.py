"""What a replica and its parent say to each other: numbered, of one version, about one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from llmasos.compose.replicas import cores_of_seat, worker
from llmasos_config import Config
from llmasos_hookspecs import CheckpointError, Host
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_replicas.numbered import Arrivals, Received, numbered
from llmasos_replicas.wire import WireError


@given(st.lists(st.integers(0, 6), max_size=12))
def test_messages_count_once_and_in_order(came: list[int]) -> None:
    """Whatever comes: a prefix of what was sent is taken, each once, and the first gap is an error."""
    arrivals, taken = Arrivals(), []
    for number in came:
        if number > len(taken):
            with pytest.raises(WireError, match=rf"Message {len(taken)} is lost or late; number {number} came"):
                arrivals.take(numbered(number, b"x"))
            return
        message = arrivals.take(numbered(number, bytes([number])))
        if message is not None:
            taken.append(message)
        assert taken == [bytes([each]) for each in range(arrivals.count)]


def test_what_is_too_short_for_a_number_is_no_message() -> None:
    with pytest.raises(WireError):
        Arrivals().take(b"\0\0")


def test_a_message_that_does_not_arrive_is_noticed() -> None:
    """The replica says again and again that it has not come; one that is on its way is given time, and any progress gives it more."""
    received = Received(patience=2)
    received.said(0, 1)
    for _ in range(2):
        received.said(0, 5)
    received.said(1, 5)
    for _ in range(2):
        received.said(1, 5)
    with pytest.raises(WireError, match="Message 1 of 5 did not arrive"):
        received.said(1, 5)


def test_a_replica_that_has_all_may_stay_silent_for_ever() -> None:
    received = Received(patience=0)
    for _ in range(9):
        received.said(3, 3)
    received.said(3, 4)  # sent since
    received.said(4, 4)


@pytest.mark.parametrize(
    ("cpus", "seats", "each"),
    [([8], 2, 4), ([8], 3, 2), ([2, 2, 2], 2, 2), ([2, 2, 2], 4, 1), ([4, 1], 2, 2), ([1], 2, 0), ([16, 2], 3, 5), ([], 1, 0)],
)
def test_seats_share_the_cores_of_hosts(cpus: list[int], seats: int, each: int) -> None:
    """No seat gets more than a host has, and all of them fit at once."""
    hosts = [Host(name=str(number), cpus=count) for number, count in enumerate(cpus)]
    assert cores_of_seat([*hosts, Host(name="gone", cpus=99, alive=False)], seats) == each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_checkpoint(folder=tmp_path_factory.mktemp("messages") / "tiny").path)


def serving(config: dict[str, Any], elsewhere: dict[str, Any] | None, digest: str) -> str:
    """Have a replica open the model, or refuse it; returns the digest of what it serves."""
    made = worker.Worker(lambda: b"", lambda _: None)
    try:
        made._open(worker._on_this_host(config, elsewhere), (), digest)
        (model,) = made._composer.config.models.values()
        return made._composer.fetch(model)[1].digest
    finally:
        made._host.close()


def config_of(source: Path | str) -> dict[str, Any]:
    return Config.from_mapping({"model": {"source": str(source)}, "loader": {"use": "onnx", "threads": 1}}).to_mapping()


def test_a_host_without_the_files_gets_the_model_by_its_reference(folder: Path, tmp_path: Path) -> None:
    """And has to have the same files then."""
    digest = serving(config_of(folder), None, "")
    assert serving(config_of(tmp_path / "not-here"), config_of(folder), digest) == digest


def test_another_model_under_the_same_name_is_refused(folder: Path) -> None:
    """Its digest differs from that of the parent's."""
    with pytest.raises(CheckpointError, match=r"is not the model that is served \(its digest is .*pull the same version on every host"):
        serving(config_of(folder), None, "0" * 64)
