"""Training speed on MNIST: this program, the same network's bare loop, and pythae.

    pip install pythae==0.1.2
    python -m benchmarks.training_speed --threads 1
    python -m benchmarks.training_speed --threads 2
    python -m benchmarks.training_speed --precision       # what train.fast_arithmetic gains, and what it costs

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
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.report import print_machine, print_table
from vae import data, worker
from vae import train as training
from vae.config import ModelConfig, TrainConfig
from vae.model import VAE
from vae.objectives import kl_per_dim

NETWORKS = {"784-400-20": ((400,), 20), "784-512-256-2": ((512, 256), 2)}  # name -> widths, latent dimensions


def make_configs(network: str, epochs: int, threads: int, seed: int = 0) -> tuple[ModelConfig, TrainConfig]:
    widths, latent_dim = NETWORKS[network]
    return (
        ModelConfig((1, 28, 28), widths=widths, latent_dim=latent_dim, activation="relu"),
        TrainConfig("mnist", epochs, 128, 1e-3, "constant", seed=seed, device="cpu", threads=threads),
    )


# The three. Each is a generator that trains an epoch between one yield and the next.


def train_ours(model_config: ModelConfig, config: TrainConfig) -> Iterator[None]:
    worker.configure_torch(config)
    images, held_out = (data.load(config.dataset, split).images for split in data.SPLITS)
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "history.jsonl"), "w", encoding="utf-8") as history:
        should_stop = Path(folder, "stop").exists
        for record in training.train(VAE(model_config), config, images, held_out, should_stop):
            history.write(json.dumps(asdict(record)) + "\n")
            history.flush()
            if record.held_out:  # before the first step, and at each epoch's end
                yield


def train_bare(model_config: ModelConfig, config: TrainConfig) -> Iterator[None]:
    worker.configure_torch(config)
    images = data.load(config.dataset, "train").images
    generator = torch.Generator().manual_seed(config.seed)
    model = VAE(model_config)
    model.init_weights(images.float().mean(0) / 255, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    while True:
        yield
        with training.fast_arithmetic():
            for batch in torch.randperm(len(images), generator=generator).split(config.batch_size):
                x = data.to_float(images.index_select(0, batch))
                mu, logvar = model.encode(x)
                logits = model.decode(model.sample_z(mu, logvar, generator))
                loss = (model.recon_loss(logits, x).sum() + kl_per_dim(mu, logvar).sum()) / len(x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


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
def contenders(model_config: ModelConfig, config: TrainConfig) -> Iterator[dict[str, Callable[[], float]]]:
    """Functions by name, each of which has its contender train an epoch, and returns images per second."""
    n_images = data.dataset_info(config.dataset).n_train
    context = multiprocessing.get_context("spawn")  # torch's settings and memory are not inherited
    functions: dict[str, Callable[[], float]] = {}
    with contextlib.ExitStack() as stack:
        for name in CONTENDERS:
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


def compare_speed(threads: int, n_restarts: int, n_rounds: int) -> None:
    names = list(CONTENDERS)
    rows = []
    for network in NETWORKS:
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(n_restarts):
            with contenders(*make_configs(network, n_rounds + 1, threads)) as train_epoch:
                for name in names:
                    train_epoch[name]()
                for i in range(n_rounds):
                    for name in names[i % 3 :] + names[: i % 3]:
                        speeds[name].append(train_epoch[name]())
        ratios = [
            median(ours / theirs for ours, theirs in zip(speeds["ours"], speeds[name], strict=True))
            for name in ("bare", "pythae")
        ]
        rows.append([network, *(f"{median(speeds[name]):,.0f}" for name in names), *(f"{r:.2f}" for r in ratios)])
    print_table(["network, images/s", *names, "ours / bare", "ours / pythae"], rows)


def compare_precision(n_epochs: int, n_seeds: int, threads: int) -> None:
    """Speed and held-out ELBO with 'highest' and with 'medium' matrix products, by turns in this process."""
    images, held_out = (data.load("mnist", split).images for split in data.SPLITS)
    precisions = {"highest": contextlib.nullcontext, "medium": training.fast_arithmetic}
    rows = []
    for network in NETWORKS:
        speeds: dict[str, list[float]] = {name: [] for name in precisions}
        elbos: dict[str, list[float]] = {name: [] for name in precisions}
        for seed in range(n_seeds):
            for name, arithmetic in precisions.items():
                model_config, config = make_configs(network, n_epochs, threads, seed)
                model = VAE(model_config)
                worker.configure_torch(config)
                with patch.object(training, "fast_arithmetic", arithmetic):
                    *_, last = training.train(model, config, images, held_out)
                speeds[name].append(n_epochs * len(images) / last.seconds)
                elbos[name].append(-training.held_out_elbo(model, held_out).loss)
        for name in precisions:
            rows.append(
                [network, name, f"{median(speeds[name]):,.0f}", f"{mean(elbos[name]):.2f}", f"{stdev(elbos[name]):.2f}"]
            )
    print_table(["network", "products", "images/s", "held-out ELBO, mean", "its standard deviation over seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--restarts", type=int, default=3, help="times that new processes are started (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="with each start (default 3)")
    parser.add_argument("--precision", action="store_true", help="compare the precisions of matrix products instead")
    parser.add_argument("--epochs", type=int, default=5, help="with --precision (default 5)")
    parser.add_argument("--seeds", type=int, default=3, help="with --precision, how many (default 3)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    print_machine()
    if args.precision:
        compare_precision(args.epochs, args.seeds, args.threads)
    else:
        compare_speed(args.threads, args.restarts, args.rounds)


if __name__ == "__main__":
    main()
