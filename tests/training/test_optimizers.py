import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.training.optimizers import make_optimizer, orthogonalised

pytestmark = pytest.mark.usefixtures("tensorflow")


def make(steps: int = 100, **changes: object) -> keras.Optimizer:
    return make_optimizer(TrialConfig.model_validate(changes), steps)


def rates(optimizer: keras.Optimizer, steps: int) -> np.ndarray:
    """The learning rate of each step, as the optimizer uses it."""
    used = []
    for step in range(steps):
        optimizer.iterations.assign(step)
        used.append(float(optimizer.learning_rate))
    return np.array(used)


def moved(optimizer: keras.Optimizer, start: float, gradients: list[float]) -> list[float]:
    """The positions of one weight after each step with these gradients."""
    weight = keras.Variable([start])
    optimizer.build([weight])
    positions = []
    for gradient in gradients:
        optimizer.apply([tf.constant([gradient])], [weight])
        positions.append(float(weight[0]))
    return positions


def test_a_constant_learning_rate_is_that_of_keras_unless_given() -> None:
    assert rates(make(), 3) == pytest.approx([0.01] * 3)
    assert rates(make(learning_rate=0.5), 3) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "triangular"])
def test_every_schedule_stays_within_the_rate_and_ends_near_zero(schedule: str) -> None:
    used = rates(make(schedule=schedule, learning_rate=0.5), 100)
    assert used.max() == pytest.approx(0.5, rel=0.02)
    assert used.min() > 0
    assert used[-1] < 0.02


def test_only_the_triangular_schedule_begins_low() -> None:
    first = {
        name: rates(make(schedule=name, learning_rate=1), 100) for name in ("linear", "cosine")
    }
    assert all(used[0] == used.max() for used in first.values())
    triangular = rates(make(schedule="triangular", learning_rate=1), 100)
    assert triangular[0] < 0.06
    assert 18 <= triangular.argmax() <= 21


def test_momentum_carries_a_weight_on() -> None:
    without, carried = (moved(make(momentum=m), 0.0, [1.0, 0.0]) for m in (0, 0.9))
    assert without[0] == without[1]
    assert carried[1] < carried[0] < without[0]  # Nesterov's looks ahead in the first step too


def test_weight_decay_takes_its_share_times_the_learning_rate() -> None:
    (position,) = moved(make(weight_decay=0.1, learning_rate=0.5), 2.0, [0.0])
    assert position == pytest.approx(2.0 * (1 - 0.05))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_lookahead_goes_half_way_back_every_few_steps(optimizer: str) -> None:
    plain = moved(make(optimizer=optimizer), 1.0, [1.0] * 3)
    ahead = moved(make(optimizer=optimizer, lookahead=3), 1.0, [1.0] * 3)
    assert ahead[:2] == plain[:2]
    assert ahead[2] == pytest.approx((1.0 + plain[2]) / 2)


@pytest.mark.parametrize("shape", [(3, 3, 4, 16), (3, 3, 16, 4), (1, 1, 2, 8)])
def test_orthogonalised_kernels_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    result = np.asarray(orthogonalised(tf.constant(kernel)))
    singular = np.linalg.svd(result.reshape(-1, shape[-1]), compute_uv=False)
    assert result.shape == shape
    assert 0.5 < singular.min() and singular.max() < 1.3


def test_muon_moves_convolutions_by_orthogonal_steps_and_the_rest_by_adam() -> None:
    random = np.random.default_rng(0)
    kernel = keras.Variable(random.normal(size=(3, 3, 4, 8)).astype(np.float32))
    dense = keras.Variable(random.normal(size=(8, 10)).astype(np.float32))
    optimizer = make(optimizer="muon", learning_rate=0.1)
    optimizer.build([kernel, dense])
    unit = np.asarray(kernel) * np.sqrt(8) / np.linalg.norm(kernel)
    before = np.asarray(dense).copy()
    gradients = [
        tf.constant(random.normal(size=v.shape).astype(np.float32)) for v in (kernel, dense)
    ]
    optimizer.apply(gradients, [kernel, dense])
    step = (unit - np.asarray(kernel)).reshape(-1, 8) / 0.1
    singular = np.linalg.svd(step, compute_uv=False)
    assert 0.5 < singular.min() and singular.max() < 1.3
    # Adam's first step is as long as its learning rate, in every direction.
    np.testing.assert_allclose(np.abs(np.asarray(dense) - before), 0.1 * 0.05, rtol=1e-3)
