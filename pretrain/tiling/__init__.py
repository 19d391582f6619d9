"""From slides to a tile store: reader, tissue, grid, labels, one idempotent job a slide, and the run over a cohort."""

from pretrain.tiling.settings import Tiling as Tiling
