"""Architecture files: our JSON, or networkx's node-link JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.errors import ArchitectureError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import PRIMITIVES

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["read_architecture_file"]


def read_architecture_file(path: Path) -> Architecture | str:
    """The architecture, or the text of a file that holds decisions.

    Raises:
        UsageError: where there is no such file, or it is no text.
        ArchitectureError: where it is not JSON, or not a valid architecture.
    """
    if not path.is_file():
        raise UsageError("The target's file exists", value=str(path), remedy="Check its path.")
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ArchitectureError(
            f"An architecture file holds JSON ({type(error).__name__}: {str(error)[:100]})",
            value=str(path),
            remedy="Write it with Architecture.to_json, or networkx.node_link_data.",
        ) from None
    try:
        if isinstance(value, dict) and "format" in value:
            return Architecture.from_json(text)
        if isinstance(value, dict) and isinstance(value.get("nodes"), list):
            return Architecture.from_networkx(_node_link_graph(value))
    except ArchitectureError as error:  # say of which file
        raise ArchitectureError(f"{path}: {error.rule}", value=error.value, remedy=error.remedy) from None
    if isinstance(value, dict) and value and not any(isinstance(one, dict) for one in value.values()):
        return text
    raise ArchitectureError(
        "An architecture file holds what Architecture.to_json or networkx.node_link_data returns, or the decisions of "
        "a space",
        value=str(path),
    )


def _node_link_graph(value: Mapping[str, Any]) -> nx.DiGraph[Any] | nx.MultiDiGraph[Any]:
    """networkx's own reader wants to be told the edges' key, whose default changed from ``links`` to ``edges``."""
    import networkx as nx

    edges = value.get("edges", value.get("links"))
    if value.get("directed") is not True or edges is None:
        raise ArchitectureError(
            "A graph in node-link form is directed and has edges (or links)",
            value={key: value.get(key) for key in ("directed", "multigraph")},
        )
    graph: nx.DiGraph[Any] = nx.MultiDiGraph() if value.get("multigraph") else nx.DiGraph()
    try:
        graph.graph.update(dict(value.get("graph", {})))
        for node in value["nodes"]:
            graph.add_node(_name(node["id"]), **{key: one for key, one in node.items() if key != "id"})
        for edge in edges:
            rest = {key: one for key, one in edge.items() if key not in ("source", "target", "key")}
            graph.add_edge(_name(edge["source"]), _name(edge["target"]), **rest)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchitectureError(
            f"Nodes have an id, edges a source and a target ({type(error).__name__}: {error})"
        ) from None
    _check_slots(graph)
    return graph


def _name(identity: Any) -> Any:
    return tuple(map(_name, identity)) if isinstance(identity, list) else identity


def _check_slots(graph: nx.DiGraph[Any]) -> None:
    """networkx writes edges by their source, so that the order in which a node's inputs were added is lost."""
    for name, data in graph.nodes(data=True):
        primitive = PRIMITIVES.get(data.get("op", ""))
        edges: list[tuple[Any, Any, Any]] = list(graph.in_edges(name, data="slot"))
        slots = [slot for _, _, slot in edges]
        if primitive is not None and not primitive.commutative and len(slots) > 1 and None in slots:
            raise ArchitectureError(
                f"Where a node has several inputs, each of its edges has a slot; node {name!r} "
                f"({primitive.name}) has edges without",
                remedy="A node-link file keeps no order of edges: set graph.edges[source, node]['slot'] = 0, 1, …",
            )
