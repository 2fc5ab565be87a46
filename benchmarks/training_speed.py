"""Training speed on MNIST: this program, the same network's bare loop, and pythae.

    pip install pythae==0.1.2
    python -m benchmarks.training_speed --threads 1
    python -m benchmarks.training_speed --threads 2
    python -m benchmarks.training_speed --families        # each family against the bare loop of its own objective
    python -m benchmarks.training_speed --precision       # what bfloat16 gains in training, and what it costs

Each of the three trains in a process of its own, as its users would run it: Adam 1e-3, batch 128, ReLU. They take
turns: in each round each trains one more epoch while the others wait, each round in another order. An epoch to warm up
goes before. All that is done several times with new processes, for where its memory lies makes a process up to 8 %
faster or slower for good. Printed are images per second, the medians over all rounds, and the medians of the rounds'
ratios, which hold where absolute figures do not.

- ours: `train.train`, consumed as the worker does: each record a line of history.jsonl, a look for the stop file at
  each step, the held-out terms at each epoch's end. Without saving and filming on the way, whose shares of the time
  worker.py limits; benchmarks/watching.py measures them.
- bare: the loop one would write for speed alone, with the same data (uint8, in memory), network, loss, fused Adam and
  arithmetic ('medium' matrix products, denormals flushed to zero), and nothing that looks on.
- pythae: the `train_step` of its BaseTrainer, which is one epoch, with the same network, its own data loading and loss,
  and torch's arithmetic as torch and pythae leave it. Without the progress bar, the log and the files around it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import print_machine, print_table
from vae import data, objectives, worker
from vae import train as training
from vae.config import DISTANCES, ModelConfig, TrainConfig
from vae.families import FAMILIES
from vae.model import VAE

NETWORKS: dict[str, dict[str, Any]] = {  # settings of ModelConfig
    "784-400-20": {"widths": (400,), "latent_dim": 20},
    "784-512-256-2": {"widths": (512, 256), "latent_dim": 2},
}
CONVOLUTIONAL = {"conv 16-32, 256-20": {"network": "conv", "channels": (16, 32), "widths": (256,), "latent_dim": 20}}


def make_configs(settings: dict[str, Any], epochs: int, threads: int, seed: int = 0) -> tuple[ModelConfig, TrainConfig]:
    return (
        ModelConfig((1, 28, 28), activation="relu", **settings),
        TrainConfig("mnist", epochs, 128, 1e-3, "constant", seed=seed, device="cpu", threads=threads),
    )


def load_images(config: TrainConfig) -> data.Images:
    """The training images; dynamic targets are drawn from their grey values anew at each step."""
    return data.load_targets(config.dataset, "train", "grey" if config.targets == "dynamic" else config.targets)


# The three. Each is a generator that trains an epoch between one yield and the next.


def train_ours(model_config: ModelConfig, config: TrainConfig) -> Iterator[None]:
    worker.configure_torch(config)
    images, held_out = load_images(config), data.load_targets(config.dataset, "held_out", config.targets)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "history.jsonl"), "w", encoding="utf-8") as history:
        should_stop = Path(folder, "stop").exists
        for record in training.train(
            VAE(model_config), config, images.images, held_out.images, should_stop, images.labels, held_out.labels
        ):
            history.write(json.dumps(asdict(record)) + "\n")
            history.flush()
            if record.held_out:  # before the first step, and at each epoch's end
                yield


def train_bare(model_config: ModelConfig, config: TrainConfig) -> Iterator[None]:
    worker.configure_torch(config)
    train = load_images(config)
    images, labels = train.images, train.labels
    generator = torch.Generator().manual_seed(config.seed)
    model = VAE(model_config)
    model.init_weights(images.float().mean(0) / 255, generator)
    model.use_generator(generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    while True:
        yield
        with training.fast_arithmetic(model):
            for batch in torch.randperm(len(images), generator=generator).split(config.batch_size):
                chosen = images.index_select(0, batch)
                x = data.to_float(data.binarize(chosen, generator) if config.targets == "dynamic" else chosen)
                y = labels.index_select(0, batch) if model_config.labels != "unused" else None
                loss = bare_loss(model, x, y, config, generator)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def bare_loss(model: VAE, x: Tensor, y: Tensor | None, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """The objective of a batch, as one would write it for this objective alone; ()."""
    given = y if model.config.labels == "given" else None
    seen = data.corrupt(x, config.corruption, config.corruption_level, generator)
    if config.objective == "contractive":
        seen.requires_grad_()
    mu, logvar = model.encode(seen, given)
    if config.objective == "iwae":
        return objectives.iwae_loss(model, x, mu, logvar, config.n_samples, generator).mean()
    z = model.sample_z(mu, logvar, generator)
    recon = model.recon_loss(model.decode(z, given), x).sum() / len(x)
    drawn = torch.randn(z.shape, generator=generator) if config.objective in DISTANCES else z
    if config.objective in ("elbo", "capacity", "tcvae"):
        kl = objectives.kl_per_dim(mu, logvar)
    match config.objective:
        case "elbo" if y is not None and given is None:
            known = torch.where(torch.rand(len(y), generator=generator) < config.labelled_share, y, training.UNKNOWN)
            guesses = model.class_logits(mu)
            cost = F.cross_entropy(guesses, known, ignore_index=training.UNKNOWN, reduction="sum") / len(x)
            return recon + kl.sum() / len(x) + config.label_weight * cost
        case "elbo" if config.free_bits:
            return recon + objectives.free_bits_kl(kl, config.free_bits)
        case "elbo":
            return recon + config.beta * kl.sum() / len(x)
        case "capacity":
            return recon + config.beta * (kl.sum() / len(x) - config.capacity).abs()
        case "tcvae":
            correlation = objectives.total_correlation(z, mu, logvar)
            return recon + kl.sum() / len(x) + (config.beta - 1) * correlation
        case "mmd_rbf" | "mmd_imq":
            return recon + config.beta * objectives.mmd(z, drawn, config.objective)
        case "sliced_wasserstein":
            return recon + config.beta * objectives.sliced_wasserstein(z, drawn, generator)
        case "energy":
            return recon + config.beta * objectives.energy_distance(z, drawn)
        case "sparse":
            return recon + config.beta * objectives.sparsity_kl(mu, config.rho)
        case "l1":
            return recon + config.beta * mu.abs().sum() / len(x)
        case "l2":
            return recon + config.beta * mu.square().sum() / len(x)
        case "contractive":
            return recon + config.beta * objectives.contractive_penalty(mu, seen, generator).mean()
        case "vq":
            nearest = model.codebook.lookup(model.codebook.symbols(mu))
            return recon + config.beta * objectives.codebook_loss(mu, nearest).mean()
    return recon


def train_pythae(model_config: ModelConfig, config: TrainConfig) -> Iterator[None]:
    from pythae.data.preprocessors import DataProcessor
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = VAE(model_config).encoder

        def forward(self, x: Tensor) -> ModelOutput:
            mu, logvar = self.layers(x).chunk(2, dim=1)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = VAE(model_config).decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.layers(z)))

    logging.disable(logging.INFO)
    torch.set_num_threads(config.threads)
    images = data.load(config.dataset, "train").images.float() / 255
    settings = VAEConfig(
        input_dim=model_config.image_shape, latent_dim=model_config.latent_dim, reconstruction_loss="bce"
    )
    trainer = BaseTrainer(
        PythaeVAE(settings, Encoder(), Decoder()),
        DataProcessor.to_dataset(DataProcessor().process_data(images)),
        training_config=BaseTrainerConfig(
            per_device_train_batch_size=config.batch_size, learning_rate=config.learning_rate, no_cuda=True
        ),
    )
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], trainer.model)  # none that prints
    while True:
        yield
        trainer.train_step(1)


CONTENDERS: dict[str, Callable[[ModelConfig, TrainConfig], Iterator[None]]] = {
    "ours": train_ours,
    "bare": train_bare,
    "pythae": train_pythae,
}


def serve_epochs(name: str, model_config: ModelConfig, config: TrainConfig, connection: Connection) -> None:
    """In a process of its own: trains an epoch whenever it is asked, and answers with its seconds."""
    with contextlib.suppress(EOFError), contextlib.closing(CONTENDERS[name](model_config, config)) as epochs:
        next(epochs)  # the set-up
        while True:
            connection.recv()  # EOFError once the other end is closed
            started = time.perf_counter()
            next(epochs)
            connection.send(time.perf_counter() - started)


@contextlib.contextmanager
def contenders(
    names: list[str], model_config: ModelConfig, config: TrainConfig
) -> Iterator[dict[str, Callable[[], float]]]:
    """Functions by name, each of which has its contender train an epoch, and returns images per second."""
    n_images = data.dataset_info(config.dataset).n_train
    context = multiprocessing.get_context("spawn")  # torch's settings and memory are not inherited
    functions: dict[str, Callable[[], float]] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            connection, far_end = context.Pipe()
            process = context.Process(target=serve_epochs, args=(name, model_config, config, far_end))
            process.start()
            far_end.close()  # so that recv fails, not waits, should the process die
            stack.callback(process.join)
            stack.enter_context(connection)

            def train_epoch(connection: Connection = connection) -> float:
                connection.send(None)
                return n_images / connection.recv()

            functions[name] = train_epoch
        yield functions


Configs = tuple[ModelConfig, TrainConfig]


def compare_speed(kinds: dict[str, Configs], names: list[str], n_restarts: int, n_rounds: int) -> None:
    """names: of CONTENDERS, "ours" first."""
    rows = []
    for kind, configs in kinds.items():
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(n_restarts):
            with contenders(names, *configs) as train_epoch:
                for name in names:
                    train_epoch[name]()
                for i in range(n_rounds):
                    turn = i % len(names)
                    for name in names[turn:] + names[:turn]:
                        speeds[name].append(train_epoch[name]())
        ratios = [
            median(ours / theirs for ours, theirs in zip(speeds["ours"], speeds[name], strict=True))
            for name in names[1:]
        ]
        rows.append([kind, *(f"{median(speeds[name]):,.0f}" for name in names), *(f"{r:.2f}" for r in ratios)])
        print(*rows[-1], flush=True)
    print_table(["images/s", *names, *(f"ours / {name}" for name in names[1:])], rows)


def compare_precision(networks: list[str], n_epochs: int, n_seeds: int, threads: int) -> None:
    """Speed and held-out ELBO in full float32 and with `train.fast_arithmetic`, by turns in this process.

    Denormals are flushed to zero in both, so that is the gain of bfloat16 alone.
    """
    images, held_out = (data.load("mnist", split).images for split in data.SPLITS)
    precisions = {"float32": contextlib.nullcontext, "fast": training.fast_arithmetic}
    rows = []
    for network in networks:
        settings = (NETWORKS | CONVOLUTIONAL)[network]
        speeds: dict[str, list[float]] = {name: [] for name in precisions}
        elbos: dict[str, list[float]] = {name: [] for name in precisions}
        for seed in range(n_seeds):
            for name in list(precisions)[:: 1 if seed % 2 else -1]:
                model_config, config = make_configs(settings, n_epochs, threads, seed)
                model = VAE(model_config)
                worker.configure_torch(config)
                with patch.object(training, "fast_arithmetic", precisions[name]):
                    *_, last = training.train(model, config, images, held_out)
                speeds[name].append(n_epochs * len(images) / last.seconds)
                elbos[name].append(-training.held_out_elbo(model, held_out).loss)
        for name in precisions:
            moved = [ours - other for ours, other in zip(elbos[name], elbos["float32"], strict=True)]
            rows.append(
                [network, name, f"{median(speeds[name]):,.0f}", f"{mean(elbos[name]):.2f}", f"{stdev(elbos[name]):.2f}",
                 f"{mean(moved):.2f} ± {stdev(moved) / len(moved) ** 0.5:.2f}"]
            )  # fmt: skip
    titles = ["network", "arithmetic", "images/s", "held-out ELBO, mean", "its standard deviation over seeds", "moved"]
    print_table(titles, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--restarts", type=int, default=3, help="times that new processes are started (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="with each start (default 3)")
    parser.add_argument("--precision", action="store_true", help="compare the precisions of arithmetic instead")
    every = list(NETWORKS | CONVOLUTIONAL)
    parser.add_argument("--networks", nargs="+", choices=every, default=every, help="with --precision (default all)")
    parser.add_argument("--epochs", type=int, default=5, help="with --precision (default 5)")
    parser.add_argument("--seeds", type=int, default=3, help="with --precision, how many (default 3)")
    parser.add_argument(
        "--families", nargs="*", choices=FAMILIES, metavar="NAME", help="compare these, or all, with their bare loops"
    )
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    print_machine()
    if args.precision:
        compare_precision(args.networks, args.epochs, args.seeds, args.threads)
        return
    settings = {"dataset": "mnist", "epochs": args.rounds + 1, "latent_dim": 16, "device": "cpu"}
    if args.families is not None:
        names = args.families or list(FAMILIES)
        kinds = {name: FAMILIES[name].configs({**settings, "threads": args.threads}) for name in names}
        compare_speed(kinds, ["ours", "bare"], args.restarts, args.rounds)
    else:
        kinds = {name: make_configs(network, args.rounds + 1, args.threads) for name, network in NETWORKS.items()}
        compare_speed(kinds, list(CONTENDERS), args.restarts, args.rounds)


if __name__ == "__main__":
    main()
