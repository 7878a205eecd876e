"""Conformance tests of access control."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import pytest

from llmasos_hookspecs.access import PERMISSIONS, Access, AuditEvent, Credentials, KeyRegister, Principal, PromptAccess
from llmasos_hookspecs.errors import NotAuthenticated, QuotaExceeded, RequestError
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

#: Requests that race for the tokens of one client.
RACERS: Final = 64

#: Permissions and resources that there are not.
_UNKNOWN: Final[tuple[tuple[Any, str], ...]] = (
    ("own", "model:default"), ("", "server"), ("use", ""), ("use", "nothing:at all"), ("use", "model"),
)  # fmt: skip

#: Events of every outcome.
EVENTS: Final = tuple(
    AuditEvent(time=1_700_000_000.0, principal=name, tenant=tenant, action=action, resource=resource, outcome=outcome, details=details)
    for name, tenant, action, resource, outcome, details in (
        ("k1", "t", "generate", "model:default", "done", {"prompt_tokens": 3, "generated_tokens": 5}),
        ("", "", "authenticate", "server", "denied", {"client": "127.0.0.1"}),
        ("客户 🙂", "租户", "run", "task:translate", "failed", {"error": 'It said "no",\nand went.'}),
        ("k1", "t", "use_scheduler", "server", "allowed", {}),
    )
)


class AccessConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, set up a client or two, and pytest proves its access control::

        class TestConformance(AccessConformance):
            module = "llmasos_access_mine"
            known = Credentials(scheme="bearer", secret="a key of a user")
            limited = Credentials(scheme="bearer", secret="a key that may use 100 tokens")
            limit = 100

            @classmethod
            def set_up(cls, folder):
                (folder / "keys.toml").write_text(...)
                return {"file": str(folder / "keys.toml")}

    Attributes:
        known: what a client shows that may use every model.
        limited, limit: what a client shows that may use ``limit`` tokens, and no more for an hour; None: the plugin has no quotas.
    """

    kind = "access"
    known: ClassVar[Credentials | None] = None
    limited: ClassVar[Credentials | None] = None
    limit: ClassVar[int] = 0

    @classmethod
    def set_up(cls, folder: Path) -> Mapping[str, Any]:
        """Make in ``folder`` what the clients above need, and return values for the component's options."""
        assert folder.is_dir()
        return cls.options

    @pytest.fixture
    def access(self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path) -> Access:
        """A new access control."""
        options = sandbox.options(**self.set_up(tmp_path))
        made: Access = sandbox.call("llmasos_create_access", options=options, context=context)
        return made

    def principal(self, access: Access, credentials: Credentials | None = None) -> Principal:
        """Who ``known`` is."""
        credentials = credentials or self.known
        assert credentials is not None, "Set known to credentials that the plugin knows."
        found = access.authenticate(credentials)
        assert isinstance(found, Principal), f"authenticate returned {found!r}; return a Principal."
        return found

    def test_recognises_a_client(self, access: Access) -> None:
        """The same each time, for the same tenant, from whatever address; the secret is no part of what it returns."""
        assert self.known is not None, "Set known to credentials that the plugin knows."
        first = self.principal(access)
        assert first == self.principal(access)
        assert self.principal(access, attrs.evolve(self.known, client="10.0.0.1")).tenant == first.tenant
        assert not self.known.secret or self.known.secret not in repr(first), "The principal holds the client's secret."

    def test_refuses_everybody_else(self, access: Access) -> None:
        """Nothing, nearly the secret, more than it, another case, control characters and a megabyte are refused with one and the same
        sentence, which holds none of them."""
        assert self.known is not None, "Set known to credentials that the plugin knows."
        secret = self.known.secret
        if not secret:
            pytest.skip("The plugin recognises clients without a secret.")
        wrong = ["", " ", secret[:-1], secret[1:], f"{secret}x", f"{secret} ", f" {secret}", f"{secret}\0", secret.swapcase(), "\0", "钥匙",
                 "x" * 1_000_000, "' OR 1=1 --", "../../etc/passwd", "\ud800"]  # fmt: skip
        said = set()
        for each in wrong:
            if each == secret:  # a secret without letters has no other case
                continue
            with pytest.raises(NotAuthenticated) as caught:
                access.authenticate(attrs.evolve(self.known, secret=each))
            assert len(each.strip()) < 3 or each.strip() not in str(caught.value), "The sentence repeats what the client showed."
            said.add(str(caught.value))
        with pytest.raises(NotAuthenticated):
            access.authenticate(Credentials())
        assert len(said) == 1, f"The sentence says how near a wrong secret was: {said}."

    def test_recognises_at_once_whom_it_authenticates(self, access: Access) -> None:
        """Where the plugin is a ``PromptAccess``: the same principal or none, and never anybody else."""
        if not isinstance(access, PromptAccess):
            pytest.skip("The plugin has no recognise.")
        assert self.known is not None, "Set known to credentials that the plugin knows."
        assert access.recognise(self.known) in (self.principal(access), None)
        for wrong in (f"{self.known.secret}x", "", "\ud800") if self.known.secret else ():
            found = access.recognise(attrs.evolve(self.known, secret=wrong))
            assert found is None, "It recognises somebody whom authenticate refuses."

    def test_refuses_what_it_does_not_know(self, access: Access) -> None:
        """A client may use a model; no permission and no kind of resource that does not exist is granted to anybody."""
        principal = self.principal(access)
        for permission in PERMISSIONS:
            for resource in ("model:default", "task:translate", "server"):
                answer = access.allows(principal, permission, resource)
                assert isinstance(answer, bool), f"allows returned {answer!r}; return True or False."
        assert access.allows(principal, "use", "model:default"), "The known client may not use a model."
        for unknown, resource in _UNKNOWN:
            assert access.allows(principal, unknown, resource) is False, f"allows({unknown!r}, {resource!r}) is granted."

    def test_a_user_does_not_administer(self, access: Access) -> None:
        """A client with the role ``user`` alone may change nothing."""
        principal = self.principal(access)
        if principal.roles != {"user"}:
            pytest.skip("The known client is more than a user.")
        assert access.allows(principal, "administer", "server") is False

    def test_reservations_end_once(self, access: Access) -> None:
        """Settled or released, twice and in any order, with less, exactly, or more tokens than were reserved, and with none."""
        principal = self.principal(access)
        for used in (0, 1, 10, 12):
            reservation = access.reserve(principal, 10)
            reservation.settle(used)
            reservation.settle(used)
            reservation.release()
        reservation = access.reserve(principal, 10)
        reservation.release()
        reservation.release()
        reservation.settle(10)
        access.reserve(principal, 0).release()

    def test_what_is_not_used_is_free_again(self, access: Access) -> None:
        """A reservation holds its tokens until it ends; afterwards only what was used is gone."""
        principal = self.limited_principal(access)
        whole = access.reserve(principal, self.limit)
        self.refused(access, principal, 1)
        whole.release()
        access.reserve(principal, self.limit).settle(self.limit // 2)
        self.refused(access, principal, self.limit - self.limit // 2 + 1)
        access.reserve(principal, self.limit - self.limit // 2).settle(self.limit)
        self.refused(access, principal, 1)

    def test_ending_twice_frees_nothing_more(self, access: Access) -> None:
        """A reservation that is ended twice gives nobody the tokens that another request holds."""
        principal = self.limited_principal(access)
        half = self.limit // 2
        first, second = access.reserve(principal, half), access.reserve(principal, self.limit - half)
        for _ in range(2):
            first.settle(0)
            first.release()
        self.refused(access, principal, half + 1)
        second.release()

    def test_no_burst_passes_a_quota(self, access: Access) -> None:
        """Of many requests at once, no more are let in than the tokens suffice for."""
        principal = self.limited_principal(access)
        each = max(1, self.limit // 7)
        start = threading.Barrier(RACERS)
        granted: list[Any] = []
        faults: list[BaseException] = []

        def race() -> None:
            start.wait()
            try:
                granted.append(access.reserve(principal, each))
            except QuotaExceeded:
                return
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=race, daemon=True) for _ in range(RACERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not faults, f"reserve raised {faults[0]!r} under load."
        assert len(granted) * each <= self.limit, f"{len(granted)} requests of {each} tokens were let in, and {self.limit} are allowed."
        assert len(granted) == self.limit // each, (
            f"Only {len(granted)} requests of {each} tokens were let in, and {self.limit} are allowed."
        )

    def test_records_every_event(self, access: Access) -> None:
        """Any event is recorded without an error, also by several threads at once."""
        faults: list[BaseException] = []

        def record() -> None:
            try:
                for event in EVENTS * 5:
                    access.audit(event)
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=record, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not faults, f"audit raised {faults[0]!r}."

    def test_keys_are_managed_by_a_register(self, access: Access) -> None:
        """A new key is known, is listed without its secret, and is known no more once it was replaced or revoked."""
        register = self.register(access)
        made = register.create_key({"label": "kit 钥匙"})
        assert self.admitted(access, made), "A key that create_key has made is not recognised."
        assert {"id", "label", "tenant", "role", "state"} <= set(made), f"A key is {sorted(made)}; tell id, label, tenant, role and state."
        assert self.states(register)[made["id"]] == "active"
        renewed = register.rotate_key(made["id"])
        assert not self.admitted(access, made), "rotate_key does not end the old key."
        assert self.admitted(access, renewed), "A key that rotate_key has made is not recognised."
        register.revoke_key(renewed["id"])
        assert not self.admitted(access, renewed), "A revoked key is recognised."
        assert "active" not in (self.states(register)[each["id"]] for each in (made, renewed))
        assert not any(each["key"] in repr(register.list_keys()) for each in (made, renewed)), "list_keys tells a secret."
        with pytest.raises(RequestError):
            register.create_key({})
        for wrong in ("nobody", renewed["id"]):
            with pytest.raises(RequestError):
                register.rotate_key(wrong)
        with pytest.raises(RequestError):
            register.revoke_key("nobody")

    def test_the_record_is_shown_and_verified(self, access: Access) -> None:
        """The last events come first, no more than were asked for, and what nobody has changed is found to be whole."""
        register = self.register(access)
        for event in EVENTS:
            access.audit(event)
        shown = register.audit_events(2)
        assert [each["action"] for each in shown] == [event.action for event in EVENTS[:-3:-1]], f"audit_events(2) tells {shown}."
        assert list(register.verify_audit()) == []

    def register(self, access: Access) -> KeyRegister:
        """The access control as the register of keys that it is."""
        if not isinstance(access, KeyRegister):
            pytest.skip("The plugin lets servers manage no keys.")
        return access

    @staticmethod
    def states(register: KeyRegister) -> dict[str, str]:
        """Id of each key -> its state."""
        return {each["id"]: each["state"] for each in register.list_keys()}

    @staticmethod
    def admitted(access: Access, made: Mapping[str, Any]) -> bool:
        """Whether the key that was made is recognised."""
        shown = Credentials(scheme="bearer", secret=made["key"])
        at_once = access.recognise(shown) if isinstance(access, PromptAccess) else None
        try:
            access.authenticate(shown)
        except NotAuthenticated:
            assert at_once is None, "recognise knows a key that has ended."
            return False
        return True

    def limited_principal(self, access: Access) -> Principal:
        """Who ``limited`` is."""
        if self.limited is None:
            pytest.skip("The plugin has no quotas.")
        return self.principal(access, self.limited)

    @staticmethod
    def refused(access: Access, principal: Principal, tokens: int) -> None:
        """So many more tokens are not granted."""
        with pytest.raises(QuotaExceeded):
            access.reserve(principal, tokens)
