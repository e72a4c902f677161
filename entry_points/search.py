"""The entry point `search`; SearchParameters says what it does."""

from cifar_mlflow.command_line import main
from cifar_mlflow.parameters import SearchParameters
from cifar_mlflow.study.command import plan_or_search

if __name__ == "__main__":
    main(SearchParameters, "search", plan_or_search)
