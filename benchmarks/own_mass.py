"""How much of its own row's mass an anchor keeps: in the literal matrix, and the multiplier that calibration chooses.

    python -m benchmarks.own_mass [--config configs/quickstart.yaml]

Prints a line for the plug-in and one for each target. If the figure is near that of a uniform row, the relative space
does not distinguish tokens (docs/algorithm.md, 3.2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from onceedit_ray.alignment import LiteralMatrix
from onceedit_ray.alignment.anchors import find_anchors
from onceedit_ray.alignment.calibrated_matrix import calibrate
from onceedit_ray.config import load_config
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import resolve

SAMPLE = 512


def own_mass(E_VD: Tensor, anchor_ids_A: Tensor, sample: int = SAMPLE) -> float:
    """The median over `sample` evenly spaced anchors of R[a, a] in the literal matrix."""
    picked_S = torch.linspace(0, len(anchor_ids_A) - 1, min(sample, len(anchor_ids_A))).long()
    R_SA = LiteralMatrix(E_VD, anchor_ids_A).rows(anchor_ids_A[picked_S])
    return float(R_SA[torch.arange(len(picked_S)), picked_S].median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    config = load_config(parser.parse_args().config)
    plugin = resolve(config.plugin.model, print)
    vocabulary = load_tokenizer(plugin.path).get_vocab()
    for target in config.targets.values():
        folder = resolve(target.model, print)
        anchors = find_anchors(vocabulary, load_tokenizer(folder.path).get_vocab())
        print(
            f"{plugin.name} and {folder.name}: {len(anchors)} anchors, a uniform row holds {1 / len(anchors):.1e} each"
        )
        for side, ids_A in ((plugin, anchors.plugin_ids_A), (folder, anchors.target_ids_A)):
            E_VD = load_model(side.path, dtype="float32", device="cpu").get_input_embeddings().weight.detach()
            own, multiplier = own_mass(E_VD, ids_A), calibrate(E_VD[ids_A])
            print(f"  {side.name}: own mass {own:.1e}, calibrated multiplier {multiplier:.2f}")


if __name__ == "__main__":
    main()
