"""``ServerConformance`` passes a right server and catches wrong ones."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs.testing import server

PLUGIN = (Path(__file__).parents[2] / "examples/server_lines/src/server_lines/__init__.py").read_text(encoding="utf-8")
BODY = """
options = {"port": 0}

def begin(self, endpoint, prompt, key=""):
    import json, socket
    connection = socket.create_connection((endpoint.host, endpoint.port), timeout=10)
    connection.sendall(json.dumps({"prompt": prompt, "key": key}).encode() + b"\\n")
    return connection

def ask(self, endpoint, prompt, key=""):
    import json
    text = ""
    with self.begin(endpoint, prompt, key) as connection, connection.makefile("rb") as lines:
        for line in lines:
            found = json.loads(line)
            if "finish" in found:
                return text
            text += found["text"]
    raise EOFError
"""


#: The same client, which waits less: some wrong servers never answer.
IMPATIENT_BODY = BODY.replace("timeout=10", "timeout=2")


def changed(old: str, new: str) -> str:
    assert old in PLUGIN, old
    return PLUGIN.replace(old, new)


WRONG = {
    "listens for everybody": (changed('"127.0.0.1"', '"0.0.0.0"'), "test_listens_on_loopback_from_start_to_stop"),
    "does not say which port it got": (
        changed("        port = self._listener.getsockname()[1]\n", ""), "test_listens_on_loopback_from_start_to_stop"
    ),
    "cannot stop without having started": (changed("if listener is not None:", "if True:"), "test_stops_without_having_started"),
    "raises what it met": (changed("except OSError as error:", "except KeyError as error:"), "test_a_port_that_is_taken_is_an_error"),
    "strips pieces": (changed("self._send(text=text)", "self._send(text=text.strip())"), "test_answers_arrive_byte_for_byte"),
    "loses pieces that repeat": (
        changed("self._send(text=text)", "text == getattr(self, 'last', None) or self._send(text=text); self.last = text"),
        "test_answers_arrive_byte_for_byte",
    ),
    "strips prompts": (changed('asked.pop("prompt", "")', 'asked.pop("prompt", "").strip()'), "test_prompts_arrive_as_they_were_sent"),
    "cuts long prompts": (changed('asked.pop("prompt", "")', 'asked.pop("prompt", "")[:4096]'), "test_prompts_arrive_as_they_were_sent"),
    "drops the key": (changed("secret=key", 'secret=""'), "test_the_client_is_who_its_key_says"),
    "takes one client for the one before": (
        changed("principal = runtime.authenticate(credentials)",
                "principal = self._server.known = getattr(self._server, 'known', None) or runtime.authenticate(credentials)"),
        "test_the_client_is_who_its_key_says",
    ),
    "ends a failed answer as if it were whole": (
        changed("case ErrorEvent(error=error):\n                    self._send(error=str(error))",
                "case ErrorEvent(error=error):\n                    self._send(finish='stop')"),
        "test_a_failed_answer_is_no_short_answer",
    ),
    "does not notice that a client left": (changed("            answer.cancel()\n        with", "            pass\n        with"),
                                           "test_a_client_that_leaves_frees_its_request"),
    "answers clients that left while they waited": (
        changed("            if self._over:\n                answer.cancel()\n", ""),
        "test_a_client_that_leaves_while_its_request_waits_frees_it",
    ),
    "answers one client at a time": (changed("        self._socket.sendall(", "        with self._server._changed: self._socket.sendall("),
                                     "test_a_client_that_does_not_read_stalls_nobody"),
    "dies of garbage": (
        changed("            with self._changed:\n                if self._draining:\n                    accepted",
                "            _parsed(accepted.recv(9999, socket.MSG_PEEK))\n"
                "            with self._changed:\n                if self._draining:\n"
                "                    accepted"),
        "test_survives_what_no_client_sends",
    ),
    "accepts while it is drained": (
        changed("        self._close_listener()\n        with self._changed:\n            self._draining = True\n            return",
                "        with self._changed:\n            return"),
        "test_drains",
    ),
    "cuts answers off": (
        changed("return self._changed.wait_for(lambda: not self._active, seconds)", "pass\n        self.stop()\n        return True"),
        "test_drains",
    ),
    "drains for ever": (changed("lambda: not self._active, seconds)", "lambda: not self._active)"),
                        "test_drains_for_no_longer_than_it_is_told"),
    "leaves answers running": (changed("        for connection in connections:\n            connection.close()\n", ""),
                               "test_drains_for_no_longer_than_it_is_told"),
}  # fmt: skip


def test_a_right_server_passes(run_conformance: Callable[..., Any]) -> None:
    """Lines over TCP pass every standard test."""
    outcomes = run_conformance("ServerConformance", PLUGIN, BODY)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_server_is_caught(run_conformance: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    """A server with one defect fails the test that is meant to find it."""
    monkeypatch.setattr(server, "SECONDS", 0.5)
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("ServerConformance", source, IMPATIENT_BODY, only=[caught_by], leaks=True)
    gc.collect()  # what it left open is collected here, and not in another test
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
