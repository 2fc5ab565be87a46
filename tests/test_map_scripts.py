"""The map's scripts, a function at a time, in a real browser; each against an outside judge."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from sklearn.neighbors import KNeighborsClassifier

from pages.ui.latent_map import CLASS_COLOURS, read_scripts
from pages.ui.latent_map.decoder import pack_decoder, travels_as_half
from vae import VAE, ModelConfig
from vae.config import ACTIVATIONS
from vae.latent import project_pca

CHANCE = np.random.default_rng(0)


@pytest.fixture
def run(new_page):
    """run(script, argument): the value of a JavaScript function that sees all of the map's scripts."""
    page = new_page()
    page.add_script_tag(content=read_scripts())
    # What travels as base64 arrives as numbers.
    page.add_script_tag(
        content="const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);"
    )
    return page.evaluate


def floats(numbers: np.ndarray | torch.Tensor) -> str:
    return base64.b64encode(np.ascontiguousarray(np.asarray(numbers), "<f4").tobytes()).decode()


def plane(mu: torch.Tensor, labels: np.ndarray, kind: str = "pca") -> dict:
    """What makes a Plane in the browser; see MAKE_PLANE."""
    projection = project_pca(mu)
    return {
        "points": floats(projection.points),
        "mu": floats(mu),
        "labels": labels.tolist(),
        "header": {
            "n": len(mu), "n_dims": mu.shape[1], "origin": projection.origin.tolist(),
            "axes": projection.axes.tolist(), "kind": kind, "upward": True, "values": [],
        },
    }  # fmt: skip


MAKE_PLANE = """
const makePlane = ({ points, mu, labels, header, logvar }) => new Plane({
  header, points: floats(points), mu: floats(mu), labels: Uint8Array.from(labels), logvar: logvar && floats(logvar) });
"""


# decoder.js


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_browser_decodes_what_torch_decodes(run, network, activation, likelihood, n_channels, half):
    """Every decoder that vae/networks.py builds; weights as training leaves them, and as large."""
    channels = (6, 9) if network == "conv" else ()
    config = ModelConfig(
        (n_channels, 12, 16), network, channels, (24, 17), 3, activation, likelihood
    )  # neither square nor a power of 2
    assert decoding_error(run, trained_like(config), half) <= (5e-3 if half else 1e-5)


@pytest.mark.parametrize("network", [{"widths": (9,)}, {"network": "conv", "channels": (5, 4), "widths": (9,)}])
@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": "continuous_bernoulli"},
        {"likelihood": "gaussian", "scale": "per_pixel"},
        {"likelihood": "laplace", "scale": "learned", "dropout": 0.5},
        {"latent": "codebook", "n_symbols": 7, "symbol_dim": 2},
        {"latent": "point", "code_activation": "sigmoid"},
        {"labels": "given", "n_classes": 5},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_the_browser_decodes_what_other_families_decode(run, network, settings):
    model = trained_like(ModelConfig((1, 8, 8), latent_dim=4, **network, **settings))
    if settings.get("labels") == "given":
        model = model.for_class(3)
    assert decoding_error(run, model, half=False) <= 1e-5


def trained_like(config: ModelConfig) -> VAE:
    model = VAE(config).eval().requires_grad_(False)
    model.init_weights(torch.full(config.image_shape, 0.3), torch.Generator().manual_seed(0))
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn(weight.shape))
    return model


def decoding_error(run, model: VAE, half: bool) -> float:
    layers, weights = pack_decoder(model.decoder, half, model.config.likelihood)
    z = 2 * torch.randn(6, model.config.latent_dim)
    shown = run(
        """([header, bits, half, zs]) => {
          const bytes = Uint8Array.from(atob(bits), (c) => c.charCodeAt(0));
          const numbers = half ? new Uint16Array(bytes.buffer) : new Float32Array(bytes.buffer);
          const decoder = makeDecoder(header, toFloats(numbers));
          return zs.map((z) => Array.from(decoder.decode(z)));
        }""",
        [
            {"layers": layers, "image_shape": list(model.config.image_shape)},
            base64.b64encode(weights.tobytes()).decode(),
            half,
            z.tolist(),
        ],
    )
    return np.abs(np.array(shown) - model.recon(z).flatten(1).numpy()).max()


def test_weights_travel_as_half_where_that_loses_nothing():
    model = VAE(ModelConfig((1, 8, 8), widths=(16,))).requires_grad_(False)
    assert not travels_as_half(model.decoder)
    for weight in model.parameters():
        weight.copy_(weight.half().float())
    assert travels_as_half(model.decoder)
    assert travels_as_half(VAE(ModelConfig((1, 28, 28), widths=(500,))).decoder)  # 394,284: many


# payload.js


def test_float16_is_numpys(run):
    bits = np.arange(2**16, dtype=np.uint16)
    shown = run("() => Array.from(toFloats(Uint16Array.from({ length: 65536 }, (_, i) => i)), String)")
    np.testing.assert_array_equal(np.array(shown, dtype=float), bits.view(np.float16).astype(float))


def test_a_server_is_asked_one_thing_at_a_time_and_of_each_purpose_the_latest(run):
    log = run("""() => {
      const sent = [], got = [];
      const pictures = new RemotePictures((question) => sent.push(question));
      pictures.draw("main", [[1]], (answer) => got.push(["first", answer]));
      pictures.draw("main", [[2]], (answer) => got.push(["overtaken", answer]));
      pictures.draw("pins", [[3], [4]], (answer) => got.push(["pins", answer]));
      pictures.draw("main", [[5]], (answer) => got.push(["latest", answer]));
      pictures.receive({ token: 99, pictures: ["of someone else"] });
      pictures.receive({ token: 1, pictures: ["a"] });
      pictures.receive({ token: 2, pictures: ["b", "c", "d"] });
      return { sent, got };
    }""")
    assert log["sent"] == [{"token": 1, "z": [[1]]}, {"token": 2, "z": [[5], [3], [4]]}]
    assert log["got"] == [["first", ["a"]], ["latest", ["b"]], ["pins", ["c", "d"]]]


def test_a_lost_answer_is_asked_for_again(run):
    sent = run("""() => {
      const sent = [], pictures = new RemotePictures((question) => sent.push(question));
      pictures.draw("main", [[1]], () => {});
      pictures.draw("pins", [[2]], () => {});
      pictures.askAgain();
      pictures.stop();
      return sent;
    }""")
    assert sent == [{"token": 1, "z": [[1]]}, {"token": 2, "z": [[1], [2]]}]


# nearest.js


@pytest.mark.parametrize("k", [1, 5])
def test_the_nearest_points_are_scipys(run, k):
    points = np.concatenate([CHANCE.normal(size=(800, 2)), CHANCE.normal(size=(200, 2)) * 0.01 + 4])
    points = points.astype(np.float32)
    queries = np.concatenate([CHANCE.normal(size=(100, 2)) * 2, CHANCE.normal(size=(20, 2)) * 100])
    shown = run(
        """([points, queries, k]) => {
          const index = new NearestIndex(floats(points), Uint32Array.from({ length: 1000 }, (_, i) => i));
          return queries.map(([x, y]) => index.nearest(x, y, k).map(({ square }) => Math.sqrt(square)));
        }""",
        [floats(points), queries.tolist(), k],
    )
    expected, _ = scipy.spatial.cKDTree(points.astype(float)).query(queries, k=k)
    np.testing.assert_allclose(np.array(shown), expected.reshape(-1, k), rtol=1e-5, atol=1e-7)


def test_the_nearest_among_those_that_count(run):
    points = CHANCE.normal(size=(300, 2)).astype(np.float32)
    shown = run(
        """(points) => {
          const index = new NearestIndex(floats(points), Uint32Array.from({ length: 300 }, (_, i) => i));
          return [[0, 0], [9, 9]].map(([x, y]) => index.nearest(x, y, 1, (i) => i % 7 === 3)[0].index);
        }""",
        floats(points),
    )
    counted = np.arange(3, 300, 7)
    tree = scipy.spatial.cKDTree(points[counted])
    assert shown == [int(counted[tree.query(spot)[1]]) for spot in ((0, 0), (9, 9))]


@pytest.mark.parametrize("points", [[[1, 2]], [[1, 2], [1, 2]], [[0, 5], [3, 5], [9, 5]]], ids=["one", "same", "line"])
def test_few_points_have_a_nearest_too(run, points):
    shown = run(
        "(points) => { const index = new NearestIndex(Float32Array.from(points.flat()), points.map((_, i) => i));"
        " return index.nearest(8, 0)[0].square; }",
        points,
    )
    assert shown == min((x - 8) ** 2 + y**2 for x, y in points)


def test_no_point_is_nearest_to_none(run):
    assert run("() => new NearestIndex(new Float32Array(0), []).nearest(0, 0).length") == 0


# layers.js


@pytest.mark.parametrize("n_dims", [2, 3, 8])
def test_votes_are_scikit_learns(run, n_dims):
    """By the z that a spot of the plane decodes, whatever the number of dimensions."""
    mu = torch.randn(600, n_dims)
    labels = CHANCE.integers(0, 4, 600) * (mu[:, 0] > 0).numpy() + 1
    spots = CHANCE.normal(size=(40, 2)) * 0.7
    shown = run(
        "([data, spots]) => {"
        + MAKE_PLANE
        + "const voter = new Voter(makePlane(data)); return spots.map(([x, y]) => voter.vote({ x, y })); }",
        [plane(mu, labels), spots.tolist()],
    )
    projection = project_pca(mu)
    z = (projection.origin + torch.tensor(spots).float() @ projection.axes).numpy()
    judge = KNeighborsClassifier(15).fit(mu.numpy(), labels)
    shares = judge.predict_proba(z)
    np.testing.assert_allclose([vote["share"] for vote in shown], shares.max(1), atol=1e-6)
    is_clear = np.sort(shares, 1)[:, -1] > np.sort(shares, 1)[:, -2]
    assert [vote["label"] for vote, clear in zip(shown, is_clear, strict=True) if clear] == judge.predict(z)[
        is_clear
    ].tolist()


def test_far_from_all_codes_no_class_is_claimed(run):
    shown = run(
        "(data) => {" + MAKE_PLANE + "const voter = new Voter(makePlane(data));"
        "return [voter.vote({ x: 0, y: 0 }).trust, voter.vote({ x: 1000, y: 0 }).trust]; }",
        plane(torch.randn(300, 2), np.zeros(300, int)),
    )
    assert shown == [1, 0]


def test_density_bands_hold_what_they_say_and_end_at_the_priors_circles(run):
    """Codes drawn from the prior itself: each band must end at about its circle."""
    mu = torch.randn(20_000, 2)
    data = plane(mu, np.zeros(len(mu), int))
    data["points"], data["header"]["axes"] = floats(mu), torch.eye(2).tolist()
    shown = run(
        "(data) => {" + MAKE_PLANE + "const plane = makePlane(data); const layer = new DensityLayer(plane);"
        """
          const at = (x, y) => layer.density[layer.cellOf(x, y)] ?? 0;
          const total = layer.density.reduce((sum, value) => sum + value, 0);
          const shares = layer.limits.map((limit) => {
            let n = 0;
            for (let i = 0; i < 20000; i++) n += at(plane.points[2 * i], plane.points[2 * i + 1]) >= limit;
            return n / 20000;
          });
          // Where a ray from the middle leaves each band, over all directions.
          const radii = layer.limits.map((limit) => {
            let sum = 0;
            for (let a = 0; a < 360; a++) {
              let r = 0;
              while (r < 6 && at(r * Math.cos(a), r * Math.sin(a)) >= limit) r += 0.01;
              sum += r / 360;
            }
            return sum;
          });
          return { total, shares, radii };
        }""",
        data,
    )
    judge = scipy.stats.chi2(2).cdf([1, 4, 9])
    np.testing.assert_allclose(shown["shares"], judge, atol=0.01)
    np.testing.assert_allclose(shown["radii"], [1, 2, 3], atol=0.15)
    assert shown["total"] == pytest.approx(20_000, rel=0.02)  # blurring loses nothing


# posterior.js


def posterior_data(n_dims: int) -> dict:
    mu, logvar = torch.randn(50, n_dims), torch.randn(50, n_dims)
    return plane(mu, np.zeros(50, int)) | {"logvar": floats(logvar)}, mu, logvar


@pytest.mark.parametrize("n_dims", [2, 5])
def test_the_ellipse_is_numpys_eigenvectors(run, n_dims):
    data, mu, logvar = posterior_data(n_dims)
    shown = run(
        "(data) => {" + MAKE_PLANE + "return new Posterior(makePlane(data), 7).ellipse(); }",
        data,
    )
    axes = project_pca(mu).axes.numpy().astype(float)
    covariance = axes @ np.diag(np.exp(logvar[7].numpy())) @ axes.T
    squares, directions = np.linalg.eigh(covariance)
    assert [shown["short"], shown["long"]] == pytest.approx(np.sqrt(squares), rel=1e-4)
    direction = [np.cos(shown["angle"]), np.sin(shown["angle"])]
    assert abs(np.dot(direction, directions[:, 1])) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("n_dims", [2, 5])
def test_dragging_epsilon_is_the_smallest_change_that_leads_there(run, n_dims):
    data, mu, logvar = posterior_data(n_dims)
    shown = run(
        "(data) => {"
        + MAKE_PLANE
        + "const posterior = new Posterior(makePlane(data), 7); const before = posterior.eps;"
        "posterior.moveTo({ x: 0.3, y: -1.2 });"
        "const [z, spot] = [posterior.z(), posterior.spot()];"
        "return { before: Array.from(before), eps: Array.from(posterior.eps), z, spot }; }",
        data,
    )
    assert [shown["spot"]["x"], shown["spot"]["y"]] == pytest.approx([0.3, -1.2], abs=1e-5)
    sigma = np.exp(0.5 * logvar[7].numpy().astype(float))
    np.testing.assert_allclose(shown["z"], mu[7].numpy() + sigma * np.array(shown["eps"]), atol=1e-5)
    # Judge: the least-squares solution of (axes · sigma) change = step is the one of smallest norm.
    projection = project_pca(mu)
    mixing = projection.axes.numpy().astype(float) * sigma
    step = np.array([0.3, -1.2]) - projection.points[7].numpy() - mixing @ np.array(shown["before"])
    expected = np.linalg.lstsq(mixing, step, rcond=None)[0]
    np.testing.assert_allclose(np.array(shown["eps"]) - np.array(shown["before"]), expected, atol=1e-4)


def test_epsilon_is_standard_normal_and_the_same_for_the_same_seed(run):
    draws, again, other = run(
        "() => [normals(20000, 3), normals(20000, 3), normals(20000, 4)].map((x) => Array.from(x))"
    )
    assert draws == again
    assert draws != other
    assert scipy.stats.kstest(draws, "norm").pvalue > 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


# tiles.js


def test_tiles_cover_the_view_and_refine_with_the_zoom(run):
    shown = run("""() => {
      const layer = new TileLayer({ width: 4, height: 4, cell: 40, render: () => new Uint8ClampedArray(4 * 36) });
      return [50, 100, 400].map((scale) => {
        const view = { x: 0.3, y: -0.2, scale, width: 600, height: 400 };
        const level = layer.levelFor(view), side = 2 ** -level;
        const tiles = layer.tilesInView(view, level);
        const left = Math.min(...tiles.map((t) => t.i * side)), right = Math.max(...tiles.map((t) => (t.i + 1) * side));
        return { level, pixels: side * scale, left: (left - 0.3) * scale, right: (right - 0.3) * scale };
      });
    }""")
    for tiles in shown:
        assert 40 / 2**0.5 <= tiles["pixels"] <= 40 * 2**0.5
        assert tiles["left"] <= -300
        assert tiles["right"] >= 300
    assert [tiles["level"] for tiles in shown] == [0, 1, 3]


def test_a_missing_tile_shows_its_part_of_a_coarser_one(run):
    """The coarse tile is red on its left and blue on its right: a fine one on its right is blue until it is made."""
    pixel = run("""() => {
      const render = (x, y, side) => {
        const bytes = new Uint8ClampedArray(4 * 36);
        for (let k = 0; k < 36; k++) {
          const colour = side === 1 ? [0, 255, 0] : k % 6 < 3 ? [255, 0, 0] : [0, 0, 255];
          bytes.set([...colour, 255], 4 * k);
        }
        return bytes;
      };
      const layer = new TileLayer({ width: 4, height: 4, cell: 40, render });
      const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 200 });
      const context = canvas.getContext("2d"), view = { x: 1.5, y: 1.5, scale: 40, width: 200, height: 200 };
      layer.makeOne({ level: -2, i: 0, j: 0 });
      const look = () => {
        context.clearRect(0, 0, 200, 200);
        layer.draw(context, view);
        return [60, 140].map((px) => Array.from(context.getImageData(px, 100, 1, 1).data)); // at x = 0.5 and 2.5
      };
      const coarse = look();
      layer.makeOne({ level: 0, i: 2, j: 1 });
      return [...coarse, look()[1]];
    }""")
    assert pixel == [[255, 0, 0, 255], [0, 0, 255, 255], [0, 255, 0, 255]]


def test_the_longest_unused_tile_makes_room(run):
    shown = run("""() => {
      const render = () => new Uint8ClampedArray(4 * 900 * 900);
      const layer = new TileLayer({ width: 898, height: 898, cell: 40, render });
      for (let i = 0; i < 4; i++) layer.makeOne({ level: 0, i, j: 0 });
      const context = document.createElement("canvas").getContext("2d");
      const used = { level: 0, i: 0, j: 0 };
      layer.drawTile(context, { x: 0, y: 0, scale: 40, width: 10, height: 10 }, used, used);
      layer.makeOne({ level: 0, i: 9, j: 0 });
      return [layer.capacity, [...layer.slots.keys()], new Set(layer.slots.values()).size];
    }""")
    assert shown == [4, ["0 2 0", "0 3 0", "0 0 0", "0 9 0"], 4]


# view.js


def test_a_view_keeps_its_place_when_the_screen_changes(run):
    shown = run("""() => {
      const view = new View({ x: 1, y: 2, width: 6, height: 4 });
      view.show({ x: -1, y: 0.5, width: 3 }); // from a link, before the size of the screen is known
      view.resize(600, 400, 1);
      const first = view.place();
      view.resize(300, 400, 2);
      const second = view.place(), there = view.toData(...view.toScreen({ x: 7, y: -3 }));
      view.fit();
      return [first, second, there, view.place(), [view.x, view.y, view.scale]];
    }""")
    assert shown[0] == shown[1] == {"x": -1, "y": 0.5, "width": 3}
    assert shown[2] == pytest.approx({"x": 7, "y": -3})
    assert shown[3] is None
    assert shown[4] == pytest.approx([1, 2, 0.9 * 300 / 6])


def test_a_zoom_keeps_the_place_under_the_pointer_and_has_an_end(run):
    shown = run("""() => {
      const view = new View({ x: 0, y: 0, width: 2, height: 2 });
      view.resize(500, 500, 1);
      const before = view.toData(120, 300);
      view.zoomAt(120, 300, 1e9);
      const after = view.toData(120, 300), near = view.scale / view.fitScale();
      view.zoomAt(0, 0, 1e-12);
      return [before, after, near, view.scale / view.fitScale()];
    }""")
    assert shown[0] == pytest.approx(shown[1])
    assert shown[2:] == pytest.approx([200, 1 / 8])


@pytest.mark.parametrize("move", ["show({ x: 1e16, y: -1e16, width: 1 })", "pan(1e16, 1e16)"])
def test_a_view_does_not_leave_the_map(run, move):
    """Beyond 2^53 a step no longer changes a number: grid and tiles would be drawn for ever."""
    x, y = run(f"""() => {{
      const view = new View({{ x: 1, y: 2, width: 6, height: 4 }});
      view.resize(600, 400, 1);
      view.{move};
      return [Math.abs(view.x - 1), Math.abs(view.y - 2)];
    }}""")
    assert [x, y] == [24, 16]


# link.js


def test_a_link_comes_back(run):
    state = {
        "view": {"x": -0.25, "y": 1.5, "width": 4.125},
        "pins": [{"x": 1, "y": -2}, {"x": 0.5, "y": 0}],
        "layers": ["points", "regions"],
        "colour": "kl",
        "hidden": [3, 7],
    }
    search, back = run(
        "(state) => { const link = linkWith('?model=mine&a=b', state); return [link, readLink(link)]; }", state
    )
    assert search.startswith("model=mine&a=b&view=-0.25,1.5,4.125&pins=1,-2;0.5,0&")
    assert back == state | {"unread": []}


def test_a_link_without_layers_has_none(run):
    state = {"view": None, "pins": [], "layers": [], "colour": "", "hidden": []}
    assert run("(state) => readLink(linkWith('', state)).layers", state) == []


def test_a_link_without_a_place_has_no_fields_for_it(run):
    nothing = {"view": None, "pins": [], "layers": None, "colour": "", "hidden": []}
    assert run("(state) => linkWith('?model=mine&view=1,2,3&pins=1,1', state)", nothing) == "model=mine"


@pytest.mark.parametrize(
    "link",
    [
        "view=here", "view=1,2,-3", "view=1,2", "view=1,NaN,2", "view=1e16,0,1", "pins=1;2", "pins=a,b", "pins=1e300,0",
        "pins=1,1;2,2;3,3", "layers=all", "layers=toString", "hidden=a", "hidden=1e30", "hidden=-1",
    ],
)  # fmt: skip
def test_what_can_not_be_read_in_a_link_is_named_and_the_rest_is_read(run, link):
    shown = run("(link) => readLink(`?colour=kl&${link}`)", link)
    name = link.split("=")[0]
    assert shown["unread"] == [name]
    assert shown[name] is None
    assert shown["colour"] == "kl"


def test_a_link_that_hides_nothing_hides_nothing(run):
    assert run("() => readLink('?hidden=').hidden") == []


# points.js, controls.js


def test_numbers_become_colours_between_their_percentiles(run):
    values = CHANCE.normal(size=2000)
    shown = run(
        "(values) => { const scale = new ColourScale(floats(values), [[0, 0, 0], [100, 0, 0], [200, 0, 0]]);"
        "const { low, high } = scale;"
        "return [low, high, ...[-99, (low + high) / 2, 99, NaN].map((value) => scale.colour(value))]; }",
        floats(values),
    )
    assert shown[:2] == pytest.approx(np.percentile(values, [1, 99]), abs=0.05)
    assert shown[2:] == [[0, 0, 0], [100, 0, 0], [200, 0, 0], [128, 128, 128]]


@pytest.mark.parametrize("ratio", [1, 2])
def test_both_painters_draw_the_same_points(run, ratio):
    """WebGL2 and plain pixels: the same places, sizes and colours, but for the discs' soft edges."""
    shown = run(
        """async (ratio) => {
          const places = Float32Array.from([0, 0, 0.5, 0.25, -0.7, -0.4, 0.2, -0.3]);
          const colours = Uint8Array.from([255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 9, 9, 9, 0]);
          const look = (painter) => {
            painter.setPlaces(places);
            painter.setColours(colours);
            painter.draw({ x: 0, y: 0, scale: 50, width: 120, height: 80, ratio }, 6, 1);
            const copy = Object.assign(document.createElement("canvas"), { width: 120 * ratio, height: 80 * ratio });
            const context = copy.getContext("2d");
            context.drawImage(painter.canvas, 0, 0);
            return Array.from(context.getImageData(0, 0, copy.width, copy.height).data);
          };
          const canvas = makeCanvas();
          const card = new CardPainter(canvas, canvas.getContext("webgl2"), () => {}, () => {});
          return [look(card), look(new PixelPainter())];
        }""",
        ratio,
    )
    card, pixels = (np.array(image, float).reshape(80 * ratio, 120 * ratio, 4) for image in shown)
    for image in (card, pixels):
        ink = image[:, :, :3] * image[:, :, 3:] / 255
        for channel, (x, y) in enumerate([(60, 40), (85, 27.5), (25, 60)]):
            rows, columns = np.nonzero(ink[:, :, channel] > 128)
            assert columns.mean() / ratio == pytest.approx(x, abs=1)
            assert rows.mean() / ratio == pytest.approx(y, abs=1)
            assert len(rows) == pytest.approx(np.pi * (6 * ratio) ** 2, rel=0.2)
        assert len(np.nonzero(ink.sum(2) > 128)[0]) == pytest.approx(
            3 * np.pi * (6 * ratio) ** 2, rel=0.2
        )  # the fourth hides


# Machado, Oliveira & Fernandes 2009, at full severity: what a colour of linear RGB looks like to such eyes.
EYES = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("eyes", EYES)
def test_the_classes_stay_apart_for_colour_blind_eyes(eyes):
    """In CIELAB, where a difference of 2 is just seen; the ten colours of tab10 come as near as 4.6."""

    def lab(colour: str) -> np.ndarray:
        srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(EYES[eyes]) @ linear, 0, 1)
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        xyz = np.array(to_xyz) @ seen / [0.95047, 1, 1.08883]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    assert scipy.spatial.distance.pdist([lab(colour) for colour in CLASS_COLOURS]).min() > 15
