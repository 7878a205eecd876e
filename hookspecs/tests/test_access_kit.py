"""``AccessConformance`` passes a right access control and catches wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = (Path(__file__).parents[2] / "examples/access_file/src/access_file/__init__.py").read_text(encoding="utf-8")
BODY = """
known = __import__("llmasos_hookspecs").Credentials(scheme="bearer", secret="The-key-1")
limited = __import__("llmasos_hookspecs").Credentials(scheme="bearer", secret="The-key-2")
limit = 100

@classmethod
def set_up(cls, folder):
    import hashlib
    text = ""
    for name, key, more in (("user", "The-key-1", ""), ("small", "The-key-2", "tokens_per_hour = 100")):
        text += f"[keys.{name}]\\nsha256 = '{hashlib.sha256(key.encode()).hexdigest()}'\\ntenant = 't'\\n{more}\\n"
    (folder / "keys.toml").write_text(text)
    return {"file": str(folder / "keys.toml"), "log": str(folder / "log")}
"""


def changed(old: str, new: str) -> str:
    assert old in PLUGIN, old
    return PLUGIN.replace(old, new)


#: The same access control, whose keys servers manage, and that recognises clients at once.
REGISTER = """

import secrets
from llmasos_hookspecs import NotAuthenticated, Principal, RequestError


class Register(FileAccess):
    events = ()
    seen = {}

    def recognise(self, credentials):
        try:
            return self.authenticate(credentials)
        except NotAuthenticated:
            return None

    def list_keys(self):
        return [self.facts(name) for name in self._keys]

    def facts(self, name):
        key = self._keys[name]
        state = "revoked" if key.sha256 == "0" * 64 else "active"
        return {"id": name, "label": name, "tenant": key.tenant, "role": key.roles[0], "state": state}

    def create_key(self, wanted):
        if not wanted.get("label"):
            raise RequestError("The label is empty.")
        secret, name = secrets.token_urlsafe(32), secrets.token_hex(6)
        self._keys[name] = Key(sha256=hashlib.sha256(secret.encode()).hexdigest(), tenant=wanted["label"])
        return {**self.facts(name), "key": secret}

    def rotate_key(self, key):
        if self.facts(self.known(key))["state"] != "active":
            raise RequestError("The key has ended.")
        self.revoke_key(key)
        return self.create_key({"label": self._keys[key].tenant})

    def revoke_key(self, key):
        self._keys[key] = attrs.evolve(self._keys[self.known(key)], sha256="0" * 64)
        return self.facts(key)

    def known(self, key):
        if key not in self._keys:
            raise RequestError("No key has that id.")
        return key

    def audit(self, event):
        super().audit(event)
        self.events = (attrs.asdict(event), *self.events)

    def audit_events(self, last):
        return self.events[:last]

    def verify_audit(self):
        return []


FileAccess = Register
"""
MANAGED = PLUGIN + REGISTER


def mismanaged(old: str, new: str) -> str:
    assert old in REGISTER, old
    return PLUGIN + REGISTER.replace(old, new)


WRONG = {
    "forgives spaces": (changed("credentials.secret.encode", "credentials.secret.strip().encode"), "test_refuses_everybody_else"),
    "forgives case": (
        changed('hmac.compare_digest(key.sha256, digest)', 'digest in (key.sha256, hashlib.sha256(b"tHE-KEY-1").hexdigest())'),
        "test_refuses_everybody_else",
    ),
    "repeats the secret": (
        changed('NotAuthenticated("The key is not known', 'NotAuthenticated(f"{credentials.secret[:40]} is not known'),
        "test_refuses_everybody_else",
    ),
    "fails on a key that cannot be encoded": (changed('"utf-8", "surrogatepass"', '"utf-8"'), "test_refuses_everybody_else"),
    "tells who is near": (
        changed('NotAuthenticated("The key', 'NotAuthenticated("Almost" if credentials.secret[:4] == "The-" else "The key'),
        "test_refuses_everybody_else",
    ),
    "gives the secret away": (
        changed("name=found[0],", "name=credentials.secret,").replace("self._keys.get(principal.name)", "next(iter(self._keys.values()))"),
        "test_recognises_a_client",
    ),
    "grants what it does not know": (changed("return False\n        return bool(set", "return True\n        return bool(set"),
                                     "test_refuses_what_it_does_not_know"),
    "lets users administer": (changed('"administer": {"admin"}', '"administer": {"admin", "user"}'), "test_a_user_does_not_administer"),
    "forgets reservations": (changed("self.reserved += tokens", "pass"), "test_no_burst_passes_a_quota"),
    "refunds nothing": (changed("self._account.reserved -= self._tokens", "pass"), "test_what_is_not_used_is_free_again"),
    "counts nothing that was used": (changed("(time.monotonic(), used))", "(time.monotonic(), 0))"), "test_what_is_not_used_is_free_again"),
    "settles twice": (changed("            if self._open:\n", "            if True:\n"), "test_ending_twice_frees_nothing_more"),
    "reserves in two steps": (
        changed(
            "            self.reserved += tokens\n",
            "            held = self.reserved\n        time.sleep(0.005)\n        self.reserved = held + tokens\n",
        ),
        "test_no_burst_passes_a_quota",
    ),
    "recognises everybody at once": (mismanaged("            return None\n", "            return Principal(name='x', tenant='t')\n"),
                                     "test_recognises_at_once_whom_it_authenticates"),
    "recognises somebody else at once": (mismanaged("return self.authenticate(credentials)", "return Principal(name='x', tenant='t')"),
                                         "test_recognises_at_once_whom_it_authenticates"),
    "remembers a revoked key": (
        mismanaged("return self.authenticate(credentials)\n", "self.seen[credentials.secret] = self.authenticate(credentials)\n"
                   "            return self.seen[credentials.secret]\n").replace(
            "            return None\n", "            return self.seen.get(credentials.secret)\n"),
        "test_keys_are_managed_by_a_register",
    ),
    "keeps a key that was replaced": (mismanaged("self.revoke_key(key)\n", "pass\n"), "test_keys_are_managed_by_a_register"),
    "keeps a revoked key": (mismanaged('sha256="0" * 64)\n', 'tenant="none")\n'), "test_keys_are_managed_by_a_register"),
    "lists secrets": (
        mismanaged('return {**self.facts(name), "key": secret}', 'self._keys[name] = attrs.evolve(self._keys[name], tenant=secret)\n'
                   '        return {**self.facts(name), "key": secret}'),
        "test_keys_are_managed_by_a_register",
    ),
    "takes a key without a label": (mismanaged('raise RequestError("The label is empty.")', 'wanted = {"label": "none"}'),
                                    "test_keys_are_managed_by_a_register"),
    "shows the oldest events": (mismanaged("self.events[:last]", "self.events[-last:]"), "test_the_record_is_shown_and_verified"),
    "distrusts its own record": (mismanaged("return []", 'return ["Row 1 was changed."]'), "test_the_record_is_shown_and_verified"),
    "cannot record an error": (changed("json.dumps(attrs.asdict(event), default=str)", '"%s" % event.details["client"]'),
                               "test_records_every_event"),
}  # fmt: skip


def test_a_right_access_control_passes(run_conformance: Callable[..., Any]) -> None:
    """Keys in a file, with roles and quotas, that servers manage and recognise at once, pass every standard test; plain ones the others."""
    outcomes = run_conformance("AccessConformance", MANAGED, BODY)
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped
    outcomes = run_conformance("AccessConformance", PLUGIN, BODY)
    assert not outcomes.failed, outcomes.messages
    assert outcomes.skipped == {
        "test_keys_are_managed_by_a_register",
        "test_recognises_at_once_whom_it_authenticates",
        "test_the_record_is_shown_and_verified",
    }


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong[1]))
def test_a_wrong_access_control_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """An access control with one defect fails the test that is meant to find it."""
    source, caught_by = WRONG[defect]
    outcomes = run_conformance("AccessConformance", source, BODY, only=[caught_by])
    assert caught_by in outcomes.failed, f"passed {sorted(outcomes.passed)}"
