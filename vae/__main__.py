"""`python -m vae train | resume | stop | rename | delete | evaluate | tsne | umap | list`: without a browser."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from dataclasses import asdict, fields
from typing import Any

from tqdm import tqdm

from vae import checkpoint, data, runs
from vae.checkpoint import CheckpointError
from vae.config import CHOICES, ConfigError, ModelConfig, TrainConfig, check_integer
from vae.data import DataError
from vae.embeddings import work_embedding
from vae.evaluations import MAX_IMPORTANCE_SAMPLES, keep_figures, measure, work_evaluation
from vae.families import FAMILIES
from vae.latent import EMBEDDINGS
from vae.processes import RunError, keep_freed_memory, print_to, stand_by
from vae.train import Record, TrainingError
from vae.worker import rehearse, work

TRAIN_HELP = {  # of those options that their names do not explain
    "channels": "conv only, image to code, as 16,32 (its default)",
    "widths": "of the dense layers; 512,256 if mlp, 256 if conv",
    "activation": "after each layer but the last",
    "sigma": "gaussian and laplace only; a learned one starts there",
    "scale": "gaussian and laplace only: of sigma",
    "latent": "what a code is: q(z|x), a point, or symbols of a codebook",
    "code_activation": "point only",
    "n_symbols": "codebook only",
    "symbol_dim": "codebook only: latent dimensions of a symbol",
    "labels": "given to the model, or predicted by it",
    "dropout": "share of the units of hidden dense layers",
    "objective": "what the loss has beside the reconstruction; must suit --latent",
    "capacity": "capacity only: nats of KL in the end",
    "rho": "sparse only: mean activation",
    "corruption": "of what the encoder sees",
    "corruption_level": "standard deviation, or share of the pixels",
    "left_out_class": "not trained on; -1: none",
    "labelled_share": "labels predicted only: of the training images",
    "label_weight": "labels predicted only: of their cross-entropy",
    "targets": "grey values, or pixels drawn from them: once, or anew at each visit",
    "n_samples": "iwae only: z for each image",
    "beta": "weight of the KL, or of what the objective has in its place",
    "warmup_epochs": "beta rises over them",
    "n_cycles": "of a cyclical beta",
    "free_bits": "nats for each dimension",
    "threads": "0: all cores but one",
    "half": "store float16",
}
USER_ERRORS = (CheckpointError, ConfigError, DataError, RunError, TrainingError)


def integers(text: str) -> tuple[int, ...]:
    """`512,256` -> (512, 256); for argparse."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vae", description="Train and evaluate variational autoencoders.")
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="train | resume | stop | evaluate | tsne | umap | list | rename | delete"
    )
    add_train_arguments(verbs.add_parser("train", help="train a model and keep it under a name"))
    parser_resume = verbs.add_parser("resume", help="take up a run that has stopped where it was kept last")
    parser_resume.add_argument("name")
    parser_resume.add_argument("--epochs", type=int, help="of the whole run, if it shall get more than it had")
    parser_resume.add_argument("--json", action="store_true", help="print the held-out figures as JSON alone")
    verbs.add_parser("stop", help="stop a run under way; what it has learnt is kept").add_argument("name")
    parser_rename = verbs.add_parser("rename", help="give a run another name")
    parser_rename.add_argument("name")
    parser_rename.add_argument("new_name")
    verbs.add_parser("delete", help="delete a run, and all that it has learnt").add_argument("name")

    parser_evaluate = verbs.add_parser("evaluate", help="held-out ELBO, likelihood, neighbours of a trained model")
    parser_evaluate.add_argument("name")
    parser_evaluate.add_argument(
        "--importance-samples", type=int, default=100, help="for nll; 0 leaves it out (default 100)"
    )
    parser_evaluate.add_argument("--seed", type=int, default=0)
    parser_evaluate.add_argument("--json", action="store_true", help="print JSON alone")

    for kind, title in EMBEDDINGS.items():
        verbs.add_parser(kind, help=f"compute the {title} of a model's codes, and keep it").add_argument("name")
    parser_list = verbs.add_parser("list", help="the models there are")
    parser_list.add_argument("--json", action="store_true", help="print JSON alone")
    # What the app starts in the background; not for people.
    verbs.add_parser("work").add_argument("name")
    verbs.add_parser("work-next")
    verbs.add_parser("measure").add_argument("name")
    verbs.add_parser("stand-by")
    return parser


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """An option for each field of ModelConfig and TrainConfig."""
    parser.add_argument("--dataset", required=True, help=", ".join(data.DATASETS))
    parser.add_argument("--name", required=True, help="of the checkpoint's folder")
    parser.add_argument("--family", choices=FAMILIES, default="vae", help="what the settings are where none is given")
    for field in (*fields(ModelConfig), *fields(TrainConfig)):
        if field.name in ("image_shape", "dataset"):
            continue
        default = TRAIN_HELP.get(field.name, "")
        options: dict[str, Any] = {"default": None, "help": f"{default} (default {field.default})".strip()}
        if field.name in ("channels", "widths"):
            options |= {"type": integers, "help": default}
        elif isinstance(field.default, bool):
            options["action"] = "store_true"
        elif field.name in CHOICES:
            options["choices"] = CHOICES[field.name]
        else:
            options["type"] = type(field.default)
        parser.add_argument("--" + field.name.replace("_", "-"), **options)
    parser.add_argument("--json", action="store_true", help="print the held-out figures as JSON alone")


def run_train(args: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(args).items() if value is not None}
    model, training = FAMILIES[args.family].configs(given)
    runs.create(args.name, model, training)
    _train(args.name, show_progress=True)
    _report(args)


def run_resume(args: argparse.Namespace) -> None:
    runs.requeue(args.name, args.epochs)
    _train(args.name, show_progress=True)
    _report(args)


def _report(args: argparse.Namespace) -> None:
    """What a run has reached."""
    folder = checkpoint.find(args.name)
    _, training = checkpoint.read_config(folder)
    metrics = asdict(checkpoint.read_metrics(folder)) if (folder / "metrics.json").is_file() else {}
    if args.json:
        print(json.dumps({"name": args.name, "dataset": training.dataset, **metrics}))
    elif metrics:
        recon = f"reconstruction {metrics['recon_loss']:.2f}"
        reached = (
            f"ELBO {metrics['elbo']:.2f} = -({recon} + KL {metrics['kl']:.2f})" if metrics["kl"] is not None else recon
        )
        print(f"{args.name}: held-out {reached} nats per image, {metrics['seconds']:.0f} s; kept in {folder}")
    else:
        print(f"{args.name}: {runs.status(args.name).message}")


def _train(name: str, show_progress: bool, is_claimed: bool = False) -> None:
    def stop(*_: object) -> None:
        runs.request_stop(name)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with _bar(unit="step", disable=not show_progress) as bar:
        for record in work(name, is_claimed):
            _show(bar, record)


def work_next() -> int:
    """On a cluster: the run that has waited longest. Returns 0 if there was one, however it ended, 3 if none waits."""
    name = runs.claim_next()
    if name is None:
        return 3
    print_to(checkpoint.find(name) / "worker.log")
    with contextlib.suppress(*USER_ERRORS):  # they stand in the run's state
        _train(name, show_progress=False, is_claimed=True)
    return 0


def _bar(**options: Any) -> tqdm:
    """A progress bar on standard error; nothing is drawn before the first step, which may never come."""
    return tqdm(file=sys.stderr, delay=1e-6, **options)


def _show(bar: tqdm, record: Record) -> None:
    bar.total = record.n_steps
    which = "held-out" if record.held_out else "training"
    if terms := record.held_out or record.train:
        bar.set_postfix_str(
            f"epoch {record.epoch:.1f}, {which} loss {terms.loss:.2f}, {record.images_per_second:,.0f} images/s", False
        )
    bar.update(record.step - bar.n)


def run_evaluate(args: argparse.Namespace) -> None:
    check_integer("importance-samples", args.importance_samples, 0, MAX_IMPORTANCE_SAMPLES)
    check_integer("seed", args.seed, 0, 2**31 - 1)
    with _bar(unit="image") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        figures = measure(args.name, args.importance_samples, args.seed, show)
    try:
        keep_figures(args.name, figures)
    except RunError as error:  # what was measured is not lost
        print(f"python -m vae evaluate: the Evaluate page will not show these figures: {error}", file=sys.stderr)
    figures.pop("weights")
    if args.json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        if isinstance(value, list):
            value = " ".join(f"{item:.4f}" if isinstance(item, float) else str(item).lower() for item in value)
        if value is not None:  # what this model or its data has not
            print(f"{key:22s} {value:.4f}" if isinstance(value, float) else f"{key:22s} {value}")


def run_list(args: argparse.Namespace) -> None:
    rows = [_row(summary) for summary in checkpoint.list_checkpoints()]
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        if row["problem"]:
            print(f"{row['name']:20s} {row['problem']}")
        else:
            plural = "s" if row["latent_dim"] > 1 else ""
            kind = f"{row['dataset']}, {row['network']}, {row['latent_dim']} latent dimension{plural}"
            reached = f"reconstruction {row['recon_loss']:.2f}" if row["elbo"] is None else f"ELBO {row['elbo']:.2f}"
            print(f"{row['name']:20s} {kind:50s} held-out {reached}")


def _row(summary: checkpoint.Summary) -> dict:
    model, training, metrics = summary.model, summary.training, summary.metrics
    state, problem = None, summary.problem
    if model:
        try:
            state = runs.status(summary.name).state
        except CheckpointError as error:
            problem = str(error)
    return {
        "name": summary.name,
        "dataset": training.dataset if training else None,
        "network": model.network if model else None,
        "latent_dim": model.latent_dim if model else None,
        "likelihood": model.likelihood if model else None,
        "beta": training.beta if training else None,
        "epochs": metrics.epochs if metrics else None,
        "elbo": metrics.elbo if metrics else None,
        "recon_loss": metrics.recon_loss if metrics else None,
        "state": state,
        "problem": problem,
    }


def run_embedding(args: argparse.Namespace) -> None:
    with _bar(unit="step") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        work_embedding(args.name, args.verb, show)


def main(arguments: list[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    keep_freed_memory()
    if args.verb == "stand-by":
        rehearse()
        order = stand_by()
        return main(order) if order else 0
    if args.verb == "work-next":
        return work_next()
    verbs = {
        "train": run_train,
        "resume": run_resume,
        "stop": lambda args: runs.request_stop(args.name),
        "rename": lambda args: runs.rename(args.name, args.new_name),
        "delete": lambda args: runs.delete(args.name),
        "work": lambda args: _train(args.name, show_progress=False),
        "evaluate": run_evaluate,
        "measure": lambda args: work_evaluation(args.name),
        "list": run_list,
        "tsne": run_embedding,
        "umap": run_embedding,
    }
    try:
        verbs[args.verb](args)
    except USER_ERRORS as error:
        print(f"python -m vae {args.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"python -m vae {args.verb}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
