"""The autoencoders of the literature's first chapters: each is a few settings with an explanation and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vae.config import DISTANCES, ModelConfig, TrainConfig, check_fit
from vae.data import dataset_info


@dataclass(frozen=True)
class Family:
    """Settings that make a kind of autoencoder; those that are not named are the configs' defaults."""

    title: str
    about: str  # one paragraph
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # of ModelConfig and TrainConfig, by name

    def configs(self, settings: Mapping[str, Any]) -> tuple[ModelConfig, TrainConfig]:
        """The configs of this family with other settings in place of its own, `dataset` among them.

        The shape of the images and the number of classes are the data set's. Raises ConfigError if they can't work.
        """
        info = dataset_info(settings["dataset"])
        is_conv = {**self.settings, **settings}.get("network") == "conv"
        by_network = {"channels": (16, 32), "widths": (256,)} if is_conv else {}
        chosen = {**by_network, **self.settings, **settings, "image_shape": info.image_shape}
        if chosen.get("labels", "unused") != "unused":
            chosen.setdefault("n_classes", len(info.class_names))
        model = ModelConfig(**_of(ModelConfig, chosen))
        training = TrainConfig(**_of(TrainConfig, chosen))
        check_fit(model, training)
        return model, training


def _of(config: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: settings[field.name] for field in fields(config) if field.name in settings}


def family_of(model: ModelConfig, training: TrainConfig) -> str:
    """The name of the family that these settings are of: the kind of code first, then the labels, then the objective;
    then that of which most settings are these. What a family is named after may have another value, as β."""
    chosen = {**{f.name: getattr(model, f.name) for f in fields(model)},
              **{f.name: getattr(training, f.name) for f in fields(training)}}  # fmt: skip
    defaults = {f.name: f.default for config in (ModelConfig, TrainConfig) for f in fields(config)}

    def likeness(family: Family) -> tuple[int, ...]:
        settings = {**{name: defaults[name] for name in DECISIVE}, **family.settings}
        same = [name for name in DECISIVE if settings[name] == chosen[name]]
        is_same_kind = (settings["objective"] in DISTANCES) == (chosen["objective"] in DISTANCES)
        # Choices that the family is named after, as the likelihood of `vae-laplace`; of some any value but the default.
        others = [
            name
            for name, value in family.settings.items()
            if name in OF_ANY_VALUE or (isinstance(value, str) and name not in DECISIVE)
        ]
        n_strange = sum(
            chosen[name] == defaults[name] if name in OF_ANY_VALUE else chosen[name] != settings[name]
            for name in others
        )
        n_equal = sum(chosen[name] == value for name, value in family.settings.items())
        return (*(name in same for name in DECISIVE), is_same_kind, -n_strange, len(others), n_equal)

    return max(FAMILIES, key=lambda name: likeness(FAMILIES[name]))


DECISIVE = ("latent", "labels", "objective")
OF_ANY_VALUE = ("corruption", "beta", "free_bits", "dropout")

FAMILIES: dict[str, Family] = {
    "vae": Family(
        "VAE",
        "The variational autoencoder. The encoder gives a Gaussian q(z|x) for each image, the decoder learns to draw "
        "the image from a z of it, and the KL keeps all these Gaussians near N(0, I), so that a z drawn from there "
        "decodes to a picture too.",
        "Kingma & Welling, arXiv:1312.6114; Rezende, Mohamed & Wierstra, arXiv:1401.4082",
    ),
    "vae-dynamic": Family(
        "VAE on binarized images",
        "Each pixel is drawn black or white anew whenever its image is visited, its grey value the probability of "
        "white. The Bernoulli likelihood is then one in the strict sense, and its figures can be compared with "
        "papers'.",
        "Salakhutdinov & Murray 2008; Burda et al., arXiv:1509.00519",
        {"targets": "dynamic"},
    ),
    "vae-static": Family(
        "VAE on images binarized once",
        "Each pixel is drawn black or white once, before the training. Fewer different images are seen than with draws "
        "at each visit, so a large model overfits sooner.",
        "Salakhutdinov & Murray 2008; Larochelle & Murray 2011",
        {"targets": "static"},
    ),
    "vae-continuous-bernoulli": Family(
        "VAE with a continuous Bernoulli likelihood",
        "Grey values are not black or white: the Bernoulli likelihood, used for them as usual, is no density. This one "
        "is, over the numbers from 0 to 1. Its loss is a density's, so it may be negative; logits beyond ±9.2 count as "
        "that, else pixels that are exactly black would count for everything. Its mean at that limit is 0.11, so no "
        "pixel of its pictures is darker.",
        "Loaiza-Ganem & Cunningham, arXiv:1907.06845",
        {"likelihood": "continuous_bernoulli"},
    ),
    "vae-gaussian": Family(
        "VAE with a Gaussian likelihood",
        "A pixel's error counts squared, over 2σ², with one σ that stays as it is set. σ says how exact a picture is "
        "to be, and so how much the reconstruction weighs against the KL.",
        "Kingma & Welling, arXiv:1312.6114, appendix C.2",
        {"likelihood": "gaussian"},
    ),
    "sigma-vae": Family(
        "σ-VAE",
        "The Gaussian likelihood's σ is learned with the weights, one for all pixels. It comes to rest at the root "
        "mean squared error, so reconstruction and KL find their balance by themselves.",
        "Rybkin, Daniilidis & Levine, arXiv:2006.13202",
        {"likelihood": "gaussian", "scale": "learned"},
    ),
    "vae-variance": Family(
        "VAE with a decoder for the variance",
        "The decoder gives each pixel a mean and a σ of its own. Where images never differ, σ falls to its lower "
        "limit, and the loss with it: a likely density is not always a good picture.",
        "Kingma & Welling, arXiv:1312.6114, appendix C.2; Stirn & Knowles, arXiv:2006.04910",
        {"likelihood": "gaussian", "scale": "per_pixel"},
    ),
    "vae-laplace": Family(
        "VAE with a Laplace likelihood",
        "A pixel's error counts as it is, not squared, over a learned scale. Single large errors cost less than under "
        "a Gaussian.",
        "Laplace density; as L1 loss in Zhao et al., arXiv:1511.08861",
        {"likelihood": "laplace", "scale": "learned"},
    ),
    "beta-vae": Family(
        "β-VAE",
        "The KL weighs β times. Above 1, the code becomes poorer and its dimensions more independent, the pictures "
        "blurrier.",
        "Higgins et al., ICLR 2017",
        {"beta": 4.0},
    ),
    "vae-warmup": Family(
        "VAE with KL warm-up",
        "The KL weighs nothing at first and everything after some epochs, so that the decoder learns to use z before "
        "the KL presses it flat.",
        "Bowman et al., arXiv:1511.06349; Sønderby et al., arXiv:1602.02282",
        {"beta_schedule": "warmup"},
    ),
    "vae-cyclical": Family(
        "VAE with cyclical β",
        "The warm-up happens again and again: in each cycle the KL's weight rises for one half and stays for the "
        "other.",
        "Fu et al., arXiv:1903.10145",
        {"beta_schedule": "cyclical"},
    ),
    "vae-free-bits": Family(
        "VAE with free bits",
        "So many nats of each dimension's KL cost nothing, so no dimension is pressed below them.",
        "Kingma et al., arXiv:1606.04934, appendix C.8",
        {"free_bits": 0.5},
    ),
    "capacity-vae": Family(
        "VAE with a capacity that grows",
        "The loss holds the KL near a target, which rises from 0 along a line in the first half of the training: the "
        "model takes up one factor after the other, the most useful first.",
        "Burgess et al., arXiv:1804.03599",
        {"objective": "capacity", "beta": 30.0},
    ),
    "beta-tcvae": Family(
        "β-TCVAE",
        "Of the KL only one part weighs more: the total correlation, which says how far the dimensions of the code are "
        "from independent. It is estimated from the batch.",
        "Chen et al., arXiv:1802.04942",
        {"objective": "tcvae", "beta": 6.0},
    ),
    "iwae": Family(
        "IWAE",
        "The importance-weighted autoencoder: k draws of z for each image, weighted by how well they explain it, make "
        "a bound of log p(x) that is tighter than the ELBO. The encoder may then be wrong about some of its draws.",
        "Burda, Grosse & Salakhutdinov, arXiv:1509.00519; gradients of Tucker et al., arXiv:1810.04152",
        {"objective": "iwae", "n_samples": 10},
    ),
    "mmd-vae": Family(
        "MMD-VAE (InfoVAE)",
        "In the KL's place stands the maximum mean discrepancy of the codes of a batch from draws of N(0, I): all "
        "codes together shall look like the prior, not each by itself, so the code may hold more of its image.",
        "Zhao, Song & Ermon, arXiv:1706.02262; Gretton et al. 2012",
        {"objective": "mmd_rbf", "beta": 100.0},
    ),
    "wae-mmd": Family(
        "WAE-MMD",
        "A code is a point, and all codes together are drawn to N(0, I) by the maximum mean discrepancy with an "
        "inverse multiquadratic kernel, which also feels codes far away.",
        "Tolstikhin et al., arXiv:1711.01558",
        {"latent": "point", "objective": "mmd_imq", "beta": 100.0},
    ),
    "swae": Family(
        "Sliced Wasserstein autoencoder",
        "Codes are drawn to N(0, I) by the Wasserstein distance along random lines, where it is a matter of sorting.",
        "Kolouri et al., arXiv:1804.01947",
        {"latent": "point", "objective": "sliced_wasserstein", "beta": 100.0},
    ),
    "energy-ae": Family(
        "Autoencoder with energy distance",
        "Codes are drawn to N(0, I) by the energy distance: twice the mean distance between code and draw, less that "
        "among the codes and among the draws.",
        "Székely & Rizzo 2013",
        {"latent": "point", "objective": "energy", "beta": 100.0},
    ),
    "ae": Family(
        "Autoencoder",
        "A code is a point, and nothing but the reconstruction counts. With fewer dimensions than pixels "
        "(undercomplete) it keeps what explains most. It has no prior: where no code lies, the decoder was never "
        "asked.",
        "Hinton & Salakhutdinov 2006",
        {"latent": "point", "objective": "reconstruction"},
    ),
    "ae-l1": Family(
        "Autoencoder with L1 penalty",
        "The sum of the code's absolute values costs something, so few dimensions shall be far from 0 for one image. "
        "Nothing keeps the decoder from making up for smaller codes by greater weights, so often all stay in use.",
        "Olshausen & Field 1996; Tibshirani 1996",
        {"latent": "point", "objective": "l1"},
    ),
    "ae-l2": Family(
        "Autoencoder with L2 penalty",
        "The sum of the code's squares costs something: codes stay near 0, which keeps the plain autoencoder's from "
        "spreading without bounds. It sets their scale, for the decoder can make up for it.",
        "Hoerl & Kennard 1970; Ghosh et al., arXiv:1903.12436",
        {"latent": "point", "objective": "l2"},
    ),
    "sparse-ae": Family(
        "Sparse autoencoder",
        "Each dimension of the code, between 0 and 1, shall be ρ on average over the images: the penalty is the KL of "
        "that mean activation from ρ, so a dimension speaks up for few images only.",
        "Ng, CS294A lecture notes 2011",
        {"latent": "point", "code_activation": "sigmoid", "objective": "sparse", "latent_dim": 32},
    ),
    "denoising-ae": Family(
        "Denoising autoencoder",
        "The encoder sees a corrupted image, the decoder shall give the clean one: the model learns where images lie, "
        "to bring others back there.",
        "Vincent et al. 2008 and 2010",
        {"latent": "point", "objective": "reconstruction", "corruption": "gaussian", "corruption_level": 0.5,
         "latent_dim": 16},
    ),
    "contractive-ae": Family(
        "Contractive autoencoder",
        "The squared Frobenius norm of the encoder's Jacobian costs something: small changes of an image shall change "
        "its code little, but for those that the reconstruction needs. (In the paper encoder and decoder share their "
        "weights; here smaller codes alone lower it, too.)",
        "Rifai et al., ICML 2011",
        {"latent": "point", "objective": "contractive", "beta": 0.1},
    ),
    "ae-dropout": Family(
        "Autoencoder with dropout",
        "Each step leaves out a share of the hidden units at random, so none can rely on another.",
        "Srivastava et al. 2014",
        {"latent": "point", "objective": "reconstruction", "dropout": 0.2},
    ),
    "cvae": Family(
        "Conditional VAE",
        "Encoder and decoder are told the class. The code need not say it, and holds what classes have in common, such "
        "as slant and weight; one z draws each class in the same hand.",
        "Sohn, Lee & Yan 2015; Kingma et al., arXiv:1406.5298",
        {"labels": "given"},
    ),
    "semi-supervised-vae": Family(
        "Semi-supervised VAE",
        "A linear classifier reads the class from the code, and learns together with the VAE. Only a share of the "
        "images has labels; the others shape the code all the same.",
        "After Kingma et al., arXiv:1406.5298 (their M1, trained jointly)",
        {"labels": "predicted", "labelled_share": 0.02, "latent_dim": 16},
    ),
    "vq-vae": Family(
        "VQ-VAE",
        "A code is a few symbols, each one of a small codebook: the nearest to what the encoder gives. Gradients pass "
        "the choice as if it were none. It has no prior: the Interpolate page draws symbols by their frequency.",
        "van den Oord, Vinyals & Kavukcuoglu, arXiv:1711.00937",
        {"latent": "codebook", "objective": "vq", "latent_dim": 16},
    ),
}  # fmt: skip
