"""Does a map show where a model looks? Two tests of occlusion, the gradient and Grad-CAM.

    python -m benchmarks.occlusion MODEL --images 400

MODEL is a URI of MLflow, of one of the paper's networks. The images are random ones of the test set, and
the class is the predicted one. Each map is brought to 8 x 8 cells.

- Deletion: the quarter of the cells that a map ranks highest is replaced, with grey and with another
  image's pixels; the mean probability left is compared with that of random cells and of another image's map.
- Random weights: Spearman's correlation with the map of the same network with weights redrawn, whose maps
  mean nothing (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018), and with another image's.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from benchmarks import machine
from cifar_mlflow.analysis.occlusion import CELLS, GREY, occlusion_maps
from cifar_mlflow.backend import keras, tf
from cifar_mlflow.data import load
from cifar_mlflow.store.models import load_model

Array = npt.NDArray[Any]
Maps = dict[str, Array]  # by method, (N, 8, 8)
DELETED = CELLS**2 // 4
CELL = 32 // CELLS  # pixels


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("model")
    parser.add_argument("--images", type=machine.positive, default=400)
    options = parser.parse_args()
    test = load.load().examples("test")
    random = np.random.default_rng(0)
    images = test.images[random.choice(len(test.labels), options.images, replace=False)]
    model: Any = load_model(options.model).model  # of Keras, which has gradients
    probabilities = model.predict(images, verbose=0)
    classes = probabilities.argmax(axis=1)

    maps = all_maps(model, images, classes)
    keras.utils.set_random_seed(1)
    meaningless = all_maps(keras.models.clone_model(model), images, classes)
    cells = random.random((len(images), CELLS, CELLS))

    def left(values: Array, pixels: Array) -> float:
        return float(
            of_class(model.predict(delete(images, values, pixels), verbose=0), classes).mean()
        )

    print(f"n = {len(images)}; mean probability {of_class(probabilities, classes).mean():.3f}")
    print(
        "map           grey  pixels | of another image  | correlation: random weights, another image"
    )
    other_pixels = np.roll(images, 1, axis=0)
    for name, values in {**maps, "random": cells}.items():
        other = np.roll(values, 1, axis=0)
        numbers = [
            left(chosen, pixels)
            for chosen in (values, other)
            for pixels in (np.full_like(images, GREY), other_pixels)
        ]
        row = " ".join(f"{number:7.3f}" for number in numbers)
        if name in maps:
            row += (
                f"  {correlation(values, meaningless[name]):6.2f} {correlation(values, other):6.2f}"
            )
        print(f"{name:<10} {row}", flush=True)


def all_maps(model: keras.Model, images: Array, classes: Array) -> Maps:
    return {
        "occlusion": occlusion_maps(lambda p: model.predict(p, 500, verbose=0), images, classes),
        "gradient": gradient(model, images, classes),
        "Grad-CAM": grad_cam(model, images, classes),
    }


def gradient(model: keras.Model, images: Array, classes: Array) -> Array:
    """Simonyan et al., 2014: the largest absolute derivative of the logit among the three channels."""
    slopes, _ = slopes_at(model.layers[1:-1], tf.constant(images, tf.float32), classes)
    steepest = np.abs(slopes).max(axis=-1)
    return np.asarray(steepest.reshape(-1, CELLS, CELL, CELLS, CELL).mean(axis=(2, 4)))


def grad_cam(model: keras.Model, images: Array, classes: Array) -> Array:
    """Selvaraju et al., 2017: of the last convolution."""
    hidden = model.layers[1:-1]
    last = max(n for n, each in enumerate(hidden) if isinstance(each, keras.layers.Conv2D)) + 1
    active = tf.constant(images, tf.float32)
    for layer in hidden[:last]:
        active = layer(active)
    slopes, active = slopes_at(hidden[last:], active, classes)
    maps = np.maximum((active * slopes.mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)
    return np.asarray(tf.image.resize(maps[..., np.newaxis], (CELLS, CELLS)))[..., 0]


def slopes_at(layers: list[Any], start: Any, classes: Array) -> tuple[Array, Array]:
    """The derivative of each image's class logit by what enters the layers, and that itself."""
    with tf.GradientTape() as tape:
        tape.watch(start)
        values = start
        for layer in layers:
            values = layer(values)
        logits = tf.gather(values, classes, batch_dims=1)
    return np.asarray(tape.gradient(logits, start)), np.asarray(start)


def delete(images: Array, maps: Array, pixels: Array) -> Array:
    """Other pixels in the quarter of the cells that are highest in the map."""
    ranks = np.argsort(np.argsort(-maps.reshape(len(maps), -1), axis=1), axis=1)
    mask = (ranks < DELETED).reshape(maps.shape).repeat(CELL, axis=1).repeat(CELL, axis=2)
    return np.where(mask[..., np.newaxis], pixels, images)


def of_class(probabilities: Array, classes: Array) -> Array:
    return probabilities[np.arange(len(classes)), classes]


def correlation(one: Array, other: Array) -> float:
    """Spearman's, mean over the images; those with a flat map are left out."""
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (one, other)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    lengths = np.prod([np.linalg.norm(each, axis=1) for each in centred], axis=0)
    some = lengths > 0
    return float(((centred[0] * centred[1]).sum(axis=1)[some] / lengths[some]).mean())


if __name__ == "__main__":
    main()
