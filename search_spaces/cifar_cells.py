"""``cifar_cells``: a normal and a reduction cell, as CIFAR work uses them.

After NASNet (Zoph et al. 2018) and DARTS (Liu et al. 2019).

Each cell has four intermediate nodes; each node adds two operations, each on any earlier node or one of the cell's two
inputs. With 9 operations a cell has (2·9)² (3·9)² (4·9)² (5·9)² = 6.2e11 sets of decisions, the space 3.8e23.
"""

from __future__ import annotations

from typing import ClassVar

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.spaces.cells import OPERATIONS, add_cell, choose_cell, is_reduction
from hypernas.spaces.space import Chooser, Scale, SearchSpace


class CifarCells(SearchSpace):
    name: ClassVar[str] = "cifar_cells"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        normal = choose_cell(choose, "normal", tuple(OPERATIONS))
        reduction = choose_cell(choose, "reduction", tuple(OPERATIONS))
        g = Builder(scale.input_shape)
        with g.scope("stem"):
            before = last = g.batch_norm(g.conv(g.input, scale.width, kernel=3))
        channels = scale.width
        for i in range(scale.n_cells):
            reduce = is_reduction(i, scale.n_cells, scale.n_reductions)
            channels *= 2 if reduce else 1
            with g.scope(f"cells.{i}"):
                cell = reduction if reduce else normal
                before, last = last, add_cell(g, cell, before, last, channels, reduce=reduce)
        with g.scope("head"):
            logits = g.linear(g.op("global_average_pool", g.relu(last), name="pool"), scale.n_classes)
        return g.finish(logits, structure={"normal": normal.to_json(), "reduction": reduction.to_json()})
