import pytest
from pydantic import ValidationError

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.errors import UsageError, one_line
from cifar_mlflow.paper import GRID
from cifar_mlflow.parameters import (
    ArchitecturesParameters,
    ExportParameters,
    GridParameters,
    PredictParameters,
    ReproduceParameters,
    SearchParameters,
    StudyOptions,
    expand,
)


def grid(**factors: str) -> StudyOptions:
    return GridParameters.model_validate(factors)


def test_the_default_grid_is_the_published_twelve() -> None:
    trials = expand(grid())
    assert [(t.activation, t.batch_size, t.optimizer) for t in trials] == list(GRID)
    rest = {"activation", "batch_size", "optimizer"}
    assert all(not t.model_dump(exclude=rest, exclude_defaults=True) for t in trials)


def test_a_grid_varies_its_last_factor_fastest() -> None:
    names = [trial.name for trial in expand(grid(activation="relu", batch_size="32,64"))]
    assert names == [
        "32-sgd-relu-deep",
        "32-adam-relu-deep",
        "64-sgd-relu-deep",
        "64-adam-relu-deep",
    ]


def test_every_field_of_a_trial_is_a_factor() -> None:
    trials = expand(
        grid(activation="relu", batch_size="32", optimizer="adam", seed="0,1", keep="last,best")
    )
    assert {(trial.seed, trial.keep) for trial in trials} == {
        (0, "last"),
        (0, "best"),
        (1, "last"),
        (1, "best"),
    }


@pytest.mark.parametrize("name", ["activation", "batch_size", "seed"])
def test_an_empty_list_is_refused(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grid(**{name: " "})
    assert "the list is empty" in one_line(caught.value)


def test_an_empty_value_in_a_list_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        PredictParameters.model_validate({"images": "a.png,,b.png"})
    assert one_line(caught.value).startswith("images=a.png,,b.png: one value of the list is empty")


def test_an_image_may_be_named_twice() -> None:
    parameters = PredictParameters.model_validate({"images": "a.png, a.png"})
    assert parameters.images == ("a.png", "a.png")


def test_a_value_given_twice_in_a_list_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        grid(batch_size="32, 64,32")
    assert one_line(caught.value).endswith("32 is given twice; input should be different values")


def test_one_trial_in_two_spellings_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^the trial relu-32-learning_rate=0\.1-.* is given twice$"
    ):
        expand(grid(optimizer="adam", learning_rate="0.1,1e-1"))


def test_an_automatic_learning_rate_and_its_number_are_two_trials() -> None:
    assert len({t.key for t in expand(grid(optimizer="adam", learning_rate="auto,0.001"))}) == 12


@pytest.mark.parametrize("name", ["cifar10-cnn", "v1.2", "_", "-a", "Größe", "n" * 250])
def test_a_name_that_the_registry_takes_is_taken(name: str) -> None:
    options = GridParameters.model_validate({"model_name": name})
    assert options.model_dump()["model_name"] == name


@pytest.mark.parametrize(
    "name", ["o'brien", ".", "..", ".hidden", "a b", "a/b", "a:b", "a\n", "n" * 251]
)
def test_a_name_that_the_registry_would_refuse_is_refused_before_any_training(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        grid(model_name=name)
    allowed = "input should be up to 250 letters, digits, '_', '-' and '.', and not begin with '.'"
    assert one_line(caught.value) == f"model_name={name}: {allowed}"


@pytest.mark.parametrize("study", [GridParameters, ArchitecturesParameters])
def test_eleven_letters_distinguish_the_trials_of_a_published_study(
    study: type[StudyOptions],
) -> None:
    names = [trial.name for trial in expand(study())]
    assert len({name[:11] for name in names}) == len(names)


def test_a_name_begins_with_what_its_study_varies() -> None:
    assert "relu-128-adam-deep" in [trial.name for trial in expand(grid())]
    networks = expand(ArchitecturesParameters.model_validate({}))
    assert [trial.name for trial in networks][:2] == ["small-relu-32-sgd", "wide-relu-32-sgd"]
    seeds = expand(grid(activation="relu", batch_size="32", optimizer="adam", seed="0,1"))
    assert [trial.name for trial in seeds] == ["relu-32-adam-deep", "seed=1-relu-32-adam-deep"]
    assert seeds[1].key == TrialConfig(optimizer="adam", seed=1).key  # it is the same trial


def test_only_what_has_a_registered_model_registers() -> None:
    assert grid(model_name="mine").registers_as == "mine"
    assert ArchitecturesParameters().registers_as is None


def test_only_a_grid_that_is_asked_to_trains_its_best_trial_again() -> None:
    assert grid(refit="true").refits
    assert not grid().refits
    assert not ArchitecturesParameters().refits
    assert ReproduceParameters(refit=True).grid("deep").refits


def test_a_reproduction_hands_its_options_to_its_parts() -> None:
    whole = ReproduceParameters.model_validate(
        {"epochs": "2", "seed": "0,1", "model_name": "mine", "workers": "3", "resume": "0" * 32}
    )
    networks, usual = whole.architectures(), whole.grid("wide")
    for study, trials in ((networks, 6), (usual, 24)):
        planned = expand(study)
        assert len(planned) == trials
        assert {(trial.epochs, trial.seed) for trial in planned} == {(2, 0), (2, 1)}
        assert (study.workers, study.resume) == (3, "auto")
    assert {trial.architecture for trial in expand(usual)} == {"wide"}
    assert usual.registers_as == "mine"


def test_a_reproduction_that_resumes_nothing_resumes_no_part() -> None:
    whole = ReproduceParameters(resume="never")
    assert {whole.architectures().resume, whole.grid("deep").resume} == {"never"}


def test_a_reproduction_is_no_grid() -> None:
    assert not set(TrialConfig.model_fields) <= set(ReproduceParameters.model_fields)
    assert not issubclass(ReproduceParameters, GridParameters)


def test_an_unknown_format_is_named_with_those_that_are_known() -> None:
    for given, line in (
        ("onnx,tflite", "formats=tflite: input should be 'onnx' or 'litert'"),
        ("onnx,onnx", "formats=onnx,onnx: onnx is given twice; input should be different values"),
    ):
        with pytest.raises(ValidationError) as caught:
            ExportParameters.model_validate({"formats": given})
        assert one_line(caught.value) == line


# Searches -------------------------------------------------------------------------------------


def search(**given: str) -> SearchParameters:
    return SearchParameters.model_validate(given)


def test_the_last_rung_is_the_number_of_epochs_if_that_is_not_given() -> None:
    assert search().stages == (20,)
    assert search(rungs="3,9,27").epochs_each == 27
    assert search(rungs="3,9,27", epochs="27").stages == (3, 9, 27)
    assert search(rungs="2,4", recipe="fast", learning_rate="0.1,1").epochs_each == 4


def test_a_round_ends_in_one_complete_trial() -> None:
    assert search(rungs="3,9,27").proposed_at_once == 9
    assert search().proposed_at_once == 8
    assert search(round_size="5", rungs="3,9,27").proposed_at_once == 5


def test_a_search_has_no_more_trials_than_its_space() -> None:
    assert search(learning_rate="0.1,0.01").possible_trials == 12
    assert search().possible_trials == 20


def test_options_that_change_no_proposal_are_not_part_of_a_searchs_plan() -> None:
    assert search(finalists="2", replicates="3", workers="1", retries="0").plan == search().plan
    for given in ({"trials": "9"}, {"rungs": "1,20"}, {"sampler_seed": "1"}, {"optimizer": "sgd"}):
        assert search(**given).plan != search().plan


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"rungs": "3,9,27", "epochs": "20"}, "rungs=3,9,27: the last one should be epochs=20"),
        (
            {"rungs": "9,3"},
            "rungs=9,3: input should be 'none' or ascending numbers of epochs, such as 3,9,27",
        ),
        ({"rungs": "9"}, "rungs=9: input should be 'none' or ascending numbers of epochs, "),
        ({"rungs": "3,x"}, "rungs=3,x: input should be 'none' or ascending numbers of epochs, "),
        ({"rungs": "0,3"}, "rungs=0,3: input should be 'none' or ascending numbers of epochs, "),
        ({"sampler": "gp", "rungs": "1,3"}, "sampler=gp: it learns only from trials that were "),
        ({"select_by": "test"}, "select_by=test: input should be 'validation'"),
        (
            {"seed": "2147483647"},
            "seed=2147483647: the finalists have the 5 seeds that follow; input should be less than",
        ),
        ({"validation_fraction": "0"}, "validation_fraction=0: this leaves no image to compare "),
        ({"learning_rate": "2..1"}, "learning_rate=2..1: the first number of a range should be "),
        ({"round_size": "0"}, "round_size=0: input should be greater than 0 or 'auto'"),
    ],
)
def test_a_search_that_is_impossible_is_refused_in_one_line(
    given: dict[str, str], line: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        search(**given)
    assert one_line(caught.value).startswith(line)


def test_the_engine_of_this_machine_has_no_address() -> None:
    with pytest.raises(ValidationError) as caught:
        GridParameters.model_validate({"address": "127.0.0.1:1"})
    assert one_line(caught.value) == (
        "address=127.0.0.1:1: the engine loky has none, because it runs on this machine; input should be "
        "local, or engine=dask or ray"
    )


def test_the_workers_of_a_dask_cluster_are_not_counted_here() -> None:
    cluster = {"engine": "dask", "address": "127.0.0.1:8786"}
    with pytest.raises(ValidationError, match="workers=4: the workers of the cluster at"):
        GridParameters.model_validate(cluster | {"workers": "4"})
    for given in (
        cluster,
        {"engine": "dask", "workers": "4"},
        cluster | {"engine": "ray", "workers": "4"},
    ):
        GridParameters.model_validate(given)
