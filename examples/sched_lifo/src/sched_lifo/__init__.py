"""The newest request runs first."""

import attrs

from llmasos_hookspecs import Admit, Component, hookimpl


@attrs.frozen
class Options:
    max_sequences: int = 8


class Lifo:
    def admit(self, request, stats):
        return Admit()

    def rank(self, sequence, now):
        return (-sequence.request.arrival,)

    def victim(self, running, needy, now):
        return None

    def quantum(self, sequence, budget):
        return budget

    def on_commit(self, charges):
        pass


@hookimpl
def llmasos_component():
    return Component(summary="Newest first.", options=Options)


@hookimpl
def llmasos_create_scheduler(options, context):
    return Lifo()
