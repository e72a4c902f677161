import pytest

from cifar_mlflow.errors import DataError, Diverged, Failure, UsageError, WorkerDied


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Diverged(), Failure.DIVERGED),
        (WorkerDied(), Failure.WORKER_DIED),
        (KeyboardInterrupt(), Failure.INTERRUPTED),
        (ArithmeticError(), Failure.ERROR),
        (ChildProcessError(), Failure.ERROR),
        (SystemExit(), Failure.ERROR),
    ],
)
def test_the_cause_of_a_failure_is_its_exceptions_class(
    error: BaseException, failure: Failure
) -> None:
    assert Failure.of(error) is failure


def test_missing_data_is_a_usage_error() -> None:
    assert issubclass(DataError, UsageError)  # so that commands end with exit code 2
