"""Every family on MNIST: the same network, budget and seeds; the table of README.

    python -m benchmarks.families
    python -m benchmarks.families --families vae ae --seeds 1 --epochs 2

784-512-256-D and back, GELU, D as --latent-dim says, batch 128, Adam from 2e-3 along a cosine. Each figure is the mean
over the seeds with half the range between the least and the greatest: held-out ELBO and -log p(x) in nats per image
(the latter with 100 samples, so somewhat too high; binarized targets and densities count other things than grey values,
so rows of different likelihoods can't be compared, and a conditional VAE's are of images whose class is known), squared
error of decode(mu), latent dimensions in use, accuracy of the five nearest training codes, CPU seconds of a whole run
(of one thread, which other work on the machine changes little). What has been measured is kept in a file, and not
measured again: delete it when the code has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import print_machine, print_table
from vae import data, runs
from vae.checkpoint import find, load_model
from vae.config import has_prior
from vae.evaluate import active_units, estimate_nll, knn_accuracy, reconstructions
from vae.families import FAMILIES
from vae.latent import encode_images
from vae.train import held_out_elbo
from vae.worker import configure_torch, work

COLUMNS = {  # title: figure, format
    "ELBO": ("elbo", "{:.2f}"),
    "−log p(x) ≤": ("nll", "{:.2f}"),
    "squared error": ("mse", "{:.4f}"),
    "in use": ("active_units", "{:.0f}"),
    "5-NN": ("knn_accuracy", "{:.3f}"),
    "CPU s": ("seconds", "{:.0f}"),
}


def train_and_measure(name: str, settings: dict[str, Any], n_importance_samples: int) -> dict[str, Any]:
    """The figures of one training."""
    model_config, config = FAMILIES[name].configs(settings)
    configure_torch(config)
    with tempfile.TemporaryDirectory() as root:
        os.environ["LATENTARIUM_CHECKPOINTS"] = root
        runs.create("one", model_config, config)
        started = time.process_time()
        for _ in work("one"):
            pass
        seconds = time.process_time() - started
        model = load_model(find("one"))
    train, held_out = (data.load_targets(config.dataset, split, config.targets) for split in data.SPLITS)
    images, labels = held_out.images, held_out.labels
    train_mu, mu = (encode_images(model, split.images, split.labels)[0] for split in (train, held_out))
    train_codes, codes = model.decoder_input(train_mu), model.decoder_input(mu)
    is_variational = model.config.latent == "gaussian"
    return {
        "elbo": -held_out_elbo(model, images, labels).loss if is_variational else None,
        "nll": estimate_nll(model, images, n_importance_samples, 0, labels)[0] if is_variational else None,
        "mse": float((reconstructions(model, mu, labels) - data.to_float(images)).square().mean()),
        "active_units": active_units(codes, has_prior(model_config, config)),
        "knn_accuracy": knn_accuracy(train_codes, train.labels, codes, labels),
        "seconds": seconds,
    }


def summary(figures: list[dict[str, Any]], name: str, form: str) -> str:
    values = [figure[name] for figure in figures if figure[name] is not None]
    if not values:
        return "–"
    text = form.format(sum(values) / len(values))
    spread = form.format((max(values) - min(values)) / 2)
    return (text if float(spread) == 0 else f"{text} ± {spread}").replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--epochs", type=int, default=5, help="default 5")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--latent-dim", type=int, default=16, help="default 16")
    parser.add_argument("--importance-samples", type=int, default=100, help="default 100")
    parser.add_argument("--keep", type=Path, default=Path("families.json"), help="default families.json")
    args = parser.parse_args()
    print_machine()
    kept = json.loads(args.keep.read_text()) if args.keep.is_file() else {}
    for seed in range(args.seeds):
        for name in args.families:
            key = f"{name} {args.epochs} {args.latent_dim} {args.importance_samples} {seed}"
            if key not in kept:
                settings = {"dataset": "mnist", "epochs": args.epochs, "latent_dim": args.latent_dim, "seed": seed}
                settings |= {"device": "cpu", "threads": 1, "warmup_epochs": args.epochs / 5}
                kept[key] = train_and_measure(name, settings, args.importance_samples)
                args.keep.write_text(json.dumps(kept))
    rows = []
    for name in args.families:
        keys = [
            f"{name} {args.epochs} {args.latent_dim} {args.importance_samples} {seed}" for seed in range(args.seeds)
        ]
        figures = [kept[key] for key in keys]
        rows.append([f"`{name}`", *(summary(figures, *column) for column in COLUMNS.values())])
    print_table(["family", *COLUMNS], rows)


if __name__ == "__main__":
    main()
