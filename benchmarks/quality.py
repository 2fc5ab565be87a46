"""How soon 784-400-20 is as good as PyTorch's own VAE example is after 10 epochs: held-out ELBO -105.5 nats, on MNIST.

    python -m benchmarks.quality

Grey values as Bernoulli targets, GELU, Adam from 3e-3 linearly to 0, batch 128. Printed for each seed: the seconds of
training, live curves included, and the ELBO over all 10,000 held-out images in full float32: nats per image, summed
over pixels, one z for each image. Seconds depend on the machine, the ELBO does not but for rounding.
"""

from __future__ import annotations

import argparse

from benchmarks.report import print_machine, print_table
from vae import data, worker
from vae.config import ModelConfig, TrainConfig
from vae.model import VAE
from vae.train import held_out_elbo, train

MODEL = ModelConfig((1, 28, 28), widths=(400,), latent_dim=20, activation="gelu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="default 5")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--batch-size", type=int, default=128, help="default 128")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="default 0.003")
    parser.add_argument("--schedule", default="linear", help="default linear")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    args = parser.parse_args()

    worker.configure_torch(TrainConfig("mnist", threads=args.threads))
    print_machine()
    images, held_out = (data.load("mnist", split).images for split in data.SPLITS)
    rows = []
    for seed in range(args.seeds):
        settings = TrainConfig(
            "mnist", args.epochs, args.batch_size, args.learning_rate, args.schedule, seed=seed, device="cpu"
        )
        model = VAE(MODEL)
        *_, last = train(model, settings, images, held_out)
        terms = held_out_elbo(model, held_out)
        figures = (-terms.loss, terms.recon_loss, terms.kl)
        rows.append([seed, args.epochs, f"{last.seconds:.1f}", *(f"{value:.2f}" for value in figures)])
    print_table(["seed", "epochs", "seconds", "held-out ELBO", "reconstruction", "KL"], rows)


if __name__ == "__main__":
    main()
