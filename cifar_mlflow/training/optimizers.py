"""The optimizer of a trial: Keras' own and Muon, with a schedule of the learning rate and lookahead."""

from collections.abc import Sequence
from typing import Any

from cifar_mlflow.backend import keras, tf
from cifar_mlflow.config import TrialConfig

LOOKAHEAD_SHARE = 0.5  # of the way back; Zhang et al., arXiv 1907.08610
WARM_UP = 0.2  # share of the steps
NEWTON_SCHULZ_STEPS = 3
ADAM_MEAN, ADAM_SQUARE = 0.9, 0.95  # decay rates


def make_optimizer(config: TrialConfig, steps: int) -> keras.Optimizer:
    """The optimizer of a trial, not yet built.

    Args:
        steps: of the whole training.
    """
    usual = Muon() if config.optimizer == "muon" else keras.optimizers.get(config.optimizer)
    kind = type(usual)
    given: dict[str, Any] = {"name": usual.name}  # Keras would count them
    if config.momentum != "auto":
        given["momentum"] = config.momentum
        if kind is keras.optimizers.SGD:
            given["nesterov"] = True
    if config.weight_decay != "auto":
        given["weight_decay"] = config.weight_decay
    if config.lookahead:
        kind, given = _with_lookahead(kind), given | {"lookahead": config.lookahead}
    optimizer = kind(**given)
    peak = config.learning_rate
    if peak == "auto":
        peak = float(usual.learning_rate.numpy())
    if config.schedule != "constant":
        optimizer.learning_rate = _schedule(config.schedule, peak, steps)
    elif config.learning_rate != "auto":
        optimizer.learning_rate = peak
    return optimizer


def _schedule(
    name: str, peak: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    schedules = keras.optimizers.schedules
    if name == "cosine":
        return schedules.CosineDecay(peak, steps)
    if name == "linear":
        return schedules.PolynomialDecay(peak, steps, end_learning_rate=0.0)
    return Triangular(peak, steps)


class Triangular(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Along a line from 0 to ``peak`` in the first fifth of ``steps``, then along one back to 0."""

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak, self.steps = peak, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = (tf.cast(step, tf.float32) + 1) / (self.steps + 1)  # no step has a rate of 0
        return self.peak * tf.minimum(done / WARM_UP, (1 - done) / (1 - WARM_UP))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "steps": self.steps}


class Muon(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Momentum, orthogonalised: each step of a convolution moves all directions equally far.

    Keras' own Muon gives no convolution this step (keras PR 21885). This one gives it to convolutions
    only: each filter is a column of the matrix that is orthogonalised, and before each step the kernel
    is scaled so that the root mean square of its filters' norms is 1. All other weights get Adam, with a
    learning rate ``adam_share`` times as large. Jordan et al., "Muon", 2024, and its constants in
    cifar10-airbench.
    """

    def __init__(
        self,
        learning_rate: float = 0.24,
        momentum: float = 0.6,
        adam_share: float = 0.05,
        weight_decay: float | None = None,
        name: str = "muon",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self.momentum, self.adam_share = momentum, adam_share

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self._momentums = self.add_optimizer_variables(variables, "momentum")
            others = [variable for variable in variables if not _is_convolution(variable)]
            squares = iter(self.add_optimizer_variables(others, "square"))
            self._squares = [None if _is_convolution(each) else next(squares) for each in variables]

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        index = self._get_variable_index(variable)
        momentum = self._momentums[index]
        if _is_convolution(variable):
            self.assign(momentum, self.momentum * momentum + gradient)
            step = orthogonalised(gradient + self.momentum * momentum)
            norm = variable.shape[-1] ** 0.5 / tf.norm(variable)
            self.assign(variable, variable * norm - learning_rate * step)
        else:
            rate = self.adam_share * learning_rate
            self._adam(gradient, variable, momentum, self._squares[index], rate)

    def _adam(
        self,
        gradient: tf.Tensor,
        variable: keras.Variable,
        mean: keras.Variable,
        square: keras.Variable,
        learning_rate: tf.Tensor,
    ) -> None:
        count = tf.cast(self.iterations + 1, tf.float32)
        self.assign(mean, ADAM_MEAN * mean + (1 - ADAM_MEAN) * gradient)
        self.assign(square, ADAM_SQUARE * square + (1 - ADAM_SQUARE) * gradient**2)
        unbiased = mean / (1 - ADAM_MEAN**count)
        scale = tf.sqrt(square / (1 - ADAM_SQUARE**count)) + 1e-8
        self.assign_sub(variable, learning_rate * unbiased / scale)

    def get_config(self) -> dict[str, Any]:
        own = {"momentum": self.momentum, "adam_share": self.adam_share}
        return {**super().get_config(), **own}


def _is_convolution(variable: keras.Variable) -> bool:
    return len(variable.shape) == 4


def orthogonalised(kernel: tf.Tensor) -> tf.Tensor:
    """The kernel, float32 (h, w, in, out), with all singular values near 1, as a matrix of filters.

    Newton-Schulz iterations, whose coefficients push small values up fast, rather than exactly to 1.
    """
    matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])  # a column for each filter
    matrix /= tf.norm(matrix) + 1e-7
    wide = matrix.shape[0] < matrix.shape[1]
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = tf.matmul(matrix, matrix, transpose_a=not wide, transpose_b=wide)
        polynomial = -4.7750 * square + 2.0315 * square @ square
        moved = polynomial @ matrix if wide else matrix @ polynomial
        matrix = 3.4445 * matrix + moved
    return tf.reshape(matrix, kernel.shape)


def _with_lookahead(optimizer: type[keras.Optimizer]) -> type[keras.Optimizer]:
    """The optimizer, with lookahead: every few steps, the weights go back a part of the way."""

    class Lookahead(optimizer):  # type: ignore[misc]
        def __init__(self, lookahead: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.lookahead = lookahead

        def build(self, variables: Sequence[keras.Variable]) -> None:
            if not self.built:
                super().build(variables)
                self._slow = self.add_optimizer_variables(variables, "slow")
                for slow, variable in zip(self._slow, variables, strict=True):
                    slow.assign(variable)

        def apply(
            self, grads: Sequence[tf.Tensor], variables: Sequence[keras.Variable] | None = None
        ) -> None:
            super().apply(grads, variables)
            back = tf.cast(self.iterations % self.lookahead == 0, tf.float32)
            for slow, variable in zip(self._slow, self._trainable_variables, strict=True):
                moved = slow + LOOKAHEAD_SHARE * (variable - slow)
                self.assign(slow, back * moved + (1 - back) * slow)
                self.assign(variable, back * moved + (1 - back) * variable)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "lookahead": self.lookahead}

    return Lookahead
