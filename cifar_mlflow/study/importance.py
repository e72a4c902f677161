"""How much the parameters of a search matter, by Optuna's PED-ANOVA.

Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023.
"""

import math
from collections.abc import Sequence

import optuna

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.space import Space
from cifar_mlflow.study.proposals import distributions

# The best trials are compared with all of them. Optuna wants at least five; of fewer trials than FEWEST
# these would be more than half.
BEST, BEST_SHARE = 5, 0.1
FEWEST = 2 * BEST


def compared(trials: int) -> int:
    """How many of so many trials count as the best ones."""
    return max(BEST, math.ceil(BEST_SHARE * trials))


def importances(ranked: Sequence[TrialConfig], space: Space) -> dict[str, float]:
    """By parameter, its share in what sets the best trials apart; the shares add up to 1.

    Args:
        ranked: the best first. The method needs no more than their ranks, so trials that were stopped at
            a rung count too.

    Returns:
        The most important parameter first; empty for fewer than FEWEST trials.
    """
    if len(ranked) < FEWEST:
        return {}
    # Takes a second, because it imports scikit-learn.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="minimize")
    of_space = distributions(space)
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=rank, params=trial.model_dump(include=set(of_space)), distributions=of_space
            )
            for rank, trial in enumerate(ranked)
        ]
    )
    # Less than the number of the best, because Optuna rounds up, and a float may be a little too large.
    quantile = (compared(len(ranked)) - 0.5) / len(ranked)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    return get_param_importances(study, evaluator=evaluator)
