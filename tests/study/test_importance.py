import pytest

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.space import Space
from cifar_mlflow.study.importance import FEWEST, compared, importances
from cifar_mlflow.study.proposals import Proposals

TEXTS = {name: [str(field.default)] for name, field in TrialConfig.model_fields.items()}
SPACE = Space.parse(
    TEXTS
    | {
        "learning_rate": ["log:0.0001..0.1"],
        "optimizer": ["sgd", "adam"],
        "batch_size": ["32", "64", "128"],
    }
)


def best_first(trials: int) -> list[TrialConfig]:
    """Random trials, of which those with the largest learning rates are the best."""
    proposed = Proposals(SPACE, "random", 0).propose(trials)
    return sorted(proposed, key=lambda trial: -float(trial.learning_rate))


def test_the_parameter_that_decides_matters_most() -> None:
    shares = importances(best_first(40), SPACE)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(SPACE.varied)


def test_too_few_trials_show_no_importance() -> None:
    assert importances(best_first(FEWEST - 1), SPACE) == {}
    assert importances(best_first(FEWEST), SPACE)


@pytest.mark.parametrize(("trials", "best"), [(10, 5), (50, 5), (51, 6), (200, 20)])
def test_the_best_are_a_tenth_but_five_at_least(trials: int, best: int) -> None:
    assert compared(trials) == best
