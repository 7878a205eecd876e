"""The guard `topics`: blocks texts about topics that are denied, or about none of those that are allowed, as a model judges them."""

from __future__ import annotations

from llmasos_guard_topics.options import Options
from llmasos_hookspecs import Component, Context, Guard, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Block texts by their topics, as a model judges them.", options=Options)


@hookimpl
def llmasos_create_guard(options: Options, context: Context) -> Guard:
    from llmasos_guard_topics.guard import TopicGuard
    from llmasos_guard_topics.judging import judge

    return TopicGuard(options, judge(options, context))
