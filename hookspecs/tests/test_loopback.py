"""Which hosts only this machine reaches."""

import pytest

from llmasos_hookspecs import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "[::1]"])
def test_the_machine_itself(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "[::]", "192.168.1.5", "example.org", "localhost.example.org", "127.0.0.1.example.org", ""]
)
def test_all_others_and_names_that_may_lead_anywhere(host: str) -> None:
    assert not is_loopback(host)
