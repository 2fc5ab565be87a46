"""The t-SNE of a checkpoint's codes: openTSNE (what `latent.compute_tsne` calls) against scikit-learn's.

    python -m benchmarks.tsne --checkpoint mnist-16d

All embed the same mu (N, D) with perplexity 30 and as many threads: ours in the steps of `latent.TSNE_PHASES`,
scikit-learn at its defaults, 1,000 steps of Barnes-Hut, and once more in as many steps as ours, to tell apart what the
steps make faster and what the method. They run one after the other in each round, with the round as seed. Printed are
the medians of

- seconds, of processor time too, which other programs disturb less,
- trustworthiness: 1 if the map's 5 nearest neighbours are near in latent space as well (Venna & Kaski 2001), over all
  images; tests hold the function to scikit-learn's,
- 5-NN accuracy: the share of images to which the majority of their 5 neighbours on the map gives the right class.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from benchmarks.report import print_machine, print_table
from vae import checkpoint
from vae.latent import N_TSNE_STEPS, compute_tsne, trustworthiness

N_NEIGHBOURS = 5


def with_opentsne(mu: torch.Tensor, seed: int) -> np.ndarray:
    return compute_tsne(mu, seed).numpy()


def with_sklearn(mu: torch.Tensor, seed: int, n_steps: int = 1000) -> np.ndarray:
    return TSNE(random_state=seed, n_jobs=-1, max_iter=n_steps).fit_transform(mu.numpy())


def knn_accuracy(points: np.ndarray, labels: np.ndarray) -> float:
    """No point votes for itself: 10-fold cross-validation."""
    guesses = cross_val_predict(KNeighborsClassifier(N_NEIGHBOURS), points, labels, cv=10)
    return float((guesses == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mnist-16d", help="default mnist-16d")
    parser.add_argument("--rounds", type=int, default=1, help="default 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each method; default: all cores")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)  # compute_tsne takes as many
    print_machine()
    latents = checkpoint.load_latents(checkpoint.find(args.checkpoint))
    mu, labels = latents.mu, latents.labels.numpy()

    methods: dict[str, Callable[[torch.Tensor, int], np.ndarray]] = {
        "openTSNE": with_opentsne,
        "scikit-learn": with_sklearn,
        f"scikit-learn, {N_TSNE_STEPS} steps": partial(with_sklearn, n_steps=N_TSNE_STEPS),
    }
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
    for seed in range(args.rounds):
        for name, embed in methods.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            with threadpool_limits(args.threads):  # scikit-learn's OpenMP loops heed this, not n_jobs
                points = embed(mu, seed)
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
            trust = trustworthiness(mu, torch.from_numpy(points), N_NEIGHBOURS, n_queries=len(mu))
            figures[name].append((seconds, cpu_seconds, trust, knn_accuracy(points, labels)))
    in_latent_space = knn_accuracy(mu.numpy(), labels)
    print(
        f"{args.checkpoint}: {len(mu):,} codes of {mu.shape[1]} dimensions; 5-NN accuracy there {in_latent_space:.4f}\n"
    )
    rows = []
    for name, values in figures.items():
        seconds, cpu_seconds, trust, accuracy = (median(column) for column in zip(*values, strict=True))
        rows.append([name, f"{seconds:.1f}", f"{cpu_seconds:.1f}", f"{trust:.4f}", f"{accuracy:.4f}"])
    print_table(["method", "seconds", "processor seconds", "trustworthiness", "5-NN accuracy"], rows)


if __name__ == "__main__":
    main()
