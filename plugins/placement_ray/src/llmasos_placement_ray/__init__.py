"""The placement ``ray``: each replica is an actor of Ray Core, on whichever node of a Ray cluster has room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmasos_hookspecs import Component, Context, hookimpl
from llmasos_placement_ray.options import Options

if TYPE_CHECKING:
    from llmasos_placement_ray.placement import RayPlacement


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Replicas as Ray actors, on one machine or many.", options=Options)


@hookimpl
def llmasos_create_placement(options: Options, context: Context) -> RayPlacement:
    from llmasos_placement_ray.placement import RayPlacement

    return RayPlacement(options)
