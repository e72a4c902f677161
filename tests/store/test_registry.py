import random
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from cifar_mlflow.config import TrialConfig
from cifar_mlflow.data.cifar10 import CLASSES
from cifar_mlflow.data.dataset import DataSet
from cifar_mlflow.errors import UsageError
from cifar_mlflow.store import models, query, registry, tracking
from cifar_mlflow.store.models import Lineage, lineage, load_model
from cifar_mlflow.store.registry import CHALLENGER, CHAMPION, Promotion, judge, register
from cifar_mlflow.store.runs import MODEL_URI, TrackedRun
from tests import standin
from tests.stores import tracked

pytestmark = pytest.mark.usefixtures("store", "tensorflow")
TAGS = {"data_digest": "abc", "validation_fraction": "0.2", "kept_val_accuracy": "0.7"}


def test_the_first_version_is_the_champion() -> None:
    assert judge(TAGS, None)[0] == CHAMPION


def test_a_better_version_becomes_the_champion() -> None:
    alias, reason = judge(TAGS | {"kept_val_accuracy": "0.701"}, TAGS)
    assert alias == CHAMPION
    assert "0.7010 beats the champion's 0.7000" in reason


def test_an_equal_or_worse_version_is_a_challenger_and_says_why() -> None:
    assert judge(TAGS, TAGS)[0] == CHALLENGER
    alias, reason = judge(TAGS | {"kept_val_accuracy": "0.6"}, TAGS)
    assert alias == CHALLENGER
    assert "0.6000 does not beat the champion's 0.7000" in reason


def test_a_version_from_other_data_or_another_split_is_a_challenger_however_good() -> None:
    better = {"kept_val_accuracy": "0.99"}
    for change, said in (
        ({"data_digest": "xyz"}, "data"),
        ({"validation_fraction": "0.1"}, "images"),
    ):
        alias, reason = judge(TAGS | better | change, TAGS)
        assert alias == CHALLENGER
        assert said in reason


def test_a_champion_registered_before_0_2_has_its_accuracy_under_the_old_tag() -> None:
    old = {**TAGS, "val_accuracy": "0.7"}
    del old["kept_val_accuracy"]
    assert judge(TAGS | {"kept_val_accuracy": "0.701"}, old)[0] == CHAMPION
    assert judge(TAGS, old)[0] == CHALLENGER


def test_a_champion_without_the_tags_is_not_beaten_blindly() -> None:
    alias, reason = judge(TAGS, {})
    assert alias == CHALLENGER
    assert reason == "the data of the champion are not known: not comparable"


def test_a_refit_of_the_champion_takes_its_place_but_only_once() -> None:
    refit = TAGS | {"refit_of": "1234"}
    alias, reason = judge(refit, TAGS)
    assert alias == CHAMPION
    assert reason.endswith("equals the champion's, which was trained on fewer images")
    assert judge(refit, refit)[0] == judge(TAGS, refit)[0] == CHALLENGER


TWIN = "(of its twin, run 1234, which was trained without the validation images)"


def test_a_refit_is_judged_by_its_twin_and_says_so() -> None:
    refit = TAGS | {"kept_val_accuracy": "0.7654321", "refit_of": "1234"}
    assert judge(refit, None) == (
        CHAMPION,
        f"there was no champion; validation accuracy 0.7654 {TWIN}",
    )
    assert judge(refit, TAGS) == (
        CHAMPION,
        f"validation accuracy 0.7654 {TWIN} beats the champion's 0.7000",
    )
    alias, reason = judge(TAGS, refit)
    assert alias == CHALLENGER
    assert reason.endswith("does not beat the champion's 0.7654")
    assert judge(refit, TAGS | {"data_digest": "xyz"})[1].endswith(TWIN)


def test_a_version_without_validation_accuracy_is_never_champion() -> None:
    all_images = {"data_digest": "abc", "validation_fraction": "0.0", "test_accuracy": "0.99"}
    for champion in (None, TAGS, all_images):
        assert judge(all_images, champion) == (
            CHALLENGER,
            "it has no validation accuracy, which decides the champion",
        )


def test_a_champion_that_someone_set_by_hand_is_not_beaten_blindly() -> None:
    by_hand = {"data_digest": "abc", "validation_fraction": TAGS["validation_fraction"]}
    alias, reason = judge(TAGS, by_hand)
    assert alias == CHALLENGER
    assert reason == "the champion has no validation accuracy to compare with"


# Registering


@dataclass
class Candidate:
    """A trial's run that logged a model, and reached a validation accuracy."""

    run: TrackedRun
    config: TrialConfig
    data: DataSet

    def register(self) -> Promotion:
        return register("mine", self.run, self.config, self.data)


@pytest.fixture
def candidate(small_cifar10: DataSet) -> Callable[[float], Candidate]:
    def make(accuracy: float) -> Candidate:
        config = TrialConfig()
        with tracking.tracked_run("trial", config.name) as run:
            mlflow.log_text("", "model/MLmodel")
            reached = {"kept_val_accuracy": accuracy, "test_accuracy": 0.5, "test_loss": 1.0}
            mlflow.log_metrics(reached)
            mlflow.set_tag(MODEL_URI, f"runs:/{run.run_id}/model")
        return Candidate(query.read(run.run_id), config, small_cifar10)

    return make


Make = Callable[[float], Candidate]


def aliases() -> dict[str, int]:
    found = mlflow.MlflowClient().get_registered_model("mine").aliases
    return {alias: int(version) for alias, version in found.items()}


def promotion(version: int) -> str:
    tags: dict[str, str] = mlflow.MlflowClient().get_model_version("mine", str(version)).tags
    assert registry.JUDGED_WITH not in tags
    return tags["promotion"]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something done once each before `champion` is set, in the order given."""

    def script(*steps: Callable[[], object]) -> None:
        waiting, put = list(steps), mlflow.MlflowClient.set_registered_model_alias

        def interrupted(client: mlflow.MlflowClient, name: str, alias: str, version: str) -> None:
            if alias == CHAMPION and waiting:
                waiting.pop(0)()
            put(client, name, alias, version)

        monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", interrupted)

    return script


def test_versions_registered_one_by_one_are_judged_in_turn(candidate: Make) -> None:
    made = [candidate(accuracy).register() for accuracy in (0.5, 0.7, 0.6, 0.7)]
    assert [each.alias for each in made] == [CHAMPION, CHAMPION, CHALLENGER, CHALLENGER]
    assert aliases() == {CHAMPION: 2, CHALLENGER: 4}
    assert [promotion(number) for number in (1, 2, 3, 4)] == [each.reason for each in made]


@pytest.mark.parametrize(("mine", "theirs"), [(0.70, 0.72), (0.72, 0.70)])
def test_of_two_studies_that_end_at_once_the_better_model_is_the_champion(
    candidate: Make, meanwhile: Callable[..., None], mine: float, theirs: float
) -> None:
    candidate(0.5).register()
    ours, other = candidate(mine), candidate(theirs)
    rivals: list[Promotion] = []
    # The other one comes and goes between our reading of the alias and our setting of it.
    meanwhile(lambda: rivals.append(other.register()))
    made = ours.register()
    better = int((made if mine > theirs else rivals[0]).version)
    assert aliases()[CHAMPION] == better
    if mine < theirs:
        assert made.alias == CHALLENGER
        assert made.reason == "validation accuracy 0.7000 does not beat the champion's 0.7200"
        assert aliases()[CHALLENGER] == int(made.version)
    assert promotion(int(made.version)) == made.reason


def test_a_refits_version_has_its_own_model_and_its_twins_validation(candidate: Make) -> None:
    twin, own = candidate(0.7), candidate(0.99)
    mlflow.MlflowClient().log_param(twin.run.run_id, "validation_fraction", "0.2")
    twin_run = query.read(twin.run.run_id)
    config = own.config.on_all_images
    made = [register("mine", own.run, config, own.data, twin_run) for _ in range(2)]
    assert made[0] == made[1]  # a second time makes no second version
    (version,) = mlflow.MlflowClient().search_model_versions("name = 'mine'")
    assert version.run_id == own.run.run_id
    expected = {
        "kept_val_accuracy": "0.7",
        "validation_fraction": "0.2",
        "refit_of": twin_run.run_id,
        "promotion": made[0].reason,
    }
    assert expected.items() <= version.tags.items()
    assert f"of its twin, run {twin_run.run_id}, which" in made[0].reason
    assert candidate(0.8).register().alias == CHAMPION


def test_a_rollback_by_hand_stays_for_the_versions_that_follow(candidate: Make) -> None:
    for accuracy in (0.5, 0.9):
        candidate(accuracy).register()
    mlflow.MlflowClient().set_registered_model_alias("mine", CHAMPION, "1")
    assert (
        candidate(0.6).register().reason == "validation accuracy 0.6000 beats the champion's 0.5000"
    )
    assert aliases()[CHAMPION] == 3


def test_a_version_of_a_killed_study_gets_the_reason_of_its_last_judgement(
    candidate: Make, meanwhile: Callable[..., None]
) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    candidate(0.6).register()
    killed = candidate(0.7)
    meanwhile(kill)
    with pytest.raises(KeyboardInterrupt):
        killed.register()
    assert candidate(0.8).register().alias == CHAMPION
    again = killed.register()
    assert (again.version, again.alias) == ("2", CHALLENGER)
    assert (
        promotion(2)
        == again.reason
        == ("validation accuracy 0.7000 does not beat the champion's 0.8000")
    )
    assert aliases() == {CHAMPION: 3, CHALLENGER: 2}
    assert killed.register() == again


class Registry:
    """A registry in memory; each call of a process waits until the test lets that process go on."""

    def __init__(self) -> None:
        self.versions: dict[int, SimpleNamespace] = {}
        self.aliases: dict[str, int] = {}
        self.arrived = threading.Semaphore(0)
        self.waiting: dict[str, threading.Semaphore] = {}

    def together(self, processes: Sequence[Callable[[], object]], order: random.Random) -> None:
        """Run processes side by side, one call at a time, each time of a process drawn at random."""

        def begin(process: Callable[[], object]) -> None:
            try:
                self.turn()
                process()
            finally:
                del self.waiting[threading.current_thread().name]
                self.arrived.release()

        threads = [threading.Thread(target=begin, args=[process]) for process in processes]
        self.waiting = {thread.name: threading.Semaphore(0) for thread in threads}
        for thread in threads:
            thread.start()
            self.arrived.acquire()
        while self.waiting:
            self.waiting[order.choice(sorted(self.waiting))].release()
            self.arrived.acquire()

    def turn(self) -> None:
        if mine := self.waiting.get(threading.current_thread().name):
            self.arrived.release()
            mine.acquire()

    def register_model(self, uri: str, name: str, tags: dict[str, str]) -> SimpleNamespace:
        self.turn()
        number = len(self.versions) + 1
        self.versions[number] = SimpleNamespace(version=str(number), run_id=uri, tags=tags)
        return self.versions[number]

    def get_model_version_by_alias(self, name: str, alias: str) -> SimpleNamespace:
        self.turn()
        if alias not in self.aliases:
            raise MlflowException("none", error_code=RESOURCE_DOES_NOT_EXIST)
        return self.versions[self.aliases[alias]]

    def search_model_versions(self, where: str) -> list[SimpleNamespace]:
        self.turn()
        return [
            SimpleNamespace(**vars(each) | {"tags": dict(each.tags)})
            for each in self.versions.values()
        ]

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.turn()
        self.aliases[alias] = int(version)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.turn()
        self.versions[int(version)].tags[key] = value

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        self.turn()
        del self.versions[int(version)].tags[key]

    def update_registered_model(self, *_: str) -> None: ...


@pytest.mark.parametrize("seed", range(100))
def test_the_best_is_the_champion_however_the_calls_of_several_studies_interleave(
    seed: int, small_cifar10: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, store = random.Random(seed), Registry()
    fake = SimpleNamespace(MlflowClient=lambda: store, register_model=store.register_model)
    monkeypatch.setattr(registry, "mlflow", fake)
    made: dict[float, Promotion] = {}

    def study(accuracy: float) -> Callable[[], object]:
        metrics = {"kept_val_accuracy": accuracy, "test_accuracy": 0.5, "test_loss": 1.0}
        run = tracked(str(accuracy), metrics=metrics, model_uri=str(accuracy))
        return lambda: made.update({accuracy: register("mine", run, TrialConfig(), small_cifar10)})

    study(0.95)()
    study(0.5)()
    store.set_registered_model_alias("mine", CHAMPION, "2")  # rolled back by hand
    accuracies = [0.6, 0.7, 0.8, 0.9][seed % 3 :]
    order.shuffle(accuracies)
    store.together([study(accuracy) for accuracy in accuracies], order)
    assert set(made) == {0.95, 0.5, *accuracies}
    assert store.aliases[CHAMPION] == int(made[0.9].version)
    assert made[0.9].alias == CHAMPION
    for promoted in made.values():
        assert store.versions[int(promoted.version)].tags["promotion"] == promoted.reason
        assert ("does not beat" in promoted.reason) == (promoted.alias == CHALLENGER)


# Loading

Save = Callable[..., str]


def network(*layers: keras.layers.Layer) -> keras.Model:
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    last = (*layers, keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax"))
    return keras.Sequential([pixels, keras.layers.Rescaling(1 / 255), *last])


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a model as `tracking.log_model` does, in a folder; gives the folder."""

    def save(model: keras.Model, metadata: dict[str, list[str]] | None = None) -> str:
        folder = str(tmp_path / "a model")
        shutil.rmtree(folder, ignore_errors=True)
        given = {"classes": list(CLASSES)} if metadata is None else metadata
        mlflow.keras.save_model(model, folder, pip_requirements=["keras"], metadata=given)
        return folder

    return save


def refusal(uri: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(uri)
    message = str(caught.value)
    assert message.startswith(f"{uri}: ")
    assert "\n" not in message
    return message


def test_a_saved_model_is_loaded_from_its_folder(save: Save) -> None:
    model = network()
    loaded = load_model(save(model))
    assert loaded.classes == CLASSES
    assert (loaded.name, loaded.version) == (None, None)
    images = standin.batch(1, seed=1).images
    np.testing.assert_array_equal(
        loaded.model.predict_on_batch(images), model.predict_on_batch(images)
    )


def test_a_logged_model_is_found_under_every_uri_that_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps artifacts
    with mlflow.start_run() as run:
        logged = mlflow.keras.log_model(
            network(),
            name="model",
            pip_requirements=["keras"],
            metadata={"classes": list(CLASSES)},
            registered_model_name="mine",
        )
    mlflow.MlflowClient().set_registered_model_alias("mine", CHAMPION, "1")
    for uri in ("models:/mine@champion", "models:/mine/1", "models:/mine/latest"):
        loaded = load_model(uri)
        assert (loaded.uri, loaded.name, loaded.version) == (uri, "mine", "1")
        assert loaded.model_id == logged.model_id
    for uri in (f"models:/{logged.model_id}", f"runs:/{run.info.run_id}/model"):
        loaded = load_model(uri)
        assert (loaded.model_id, loaded.name) == (logged.model_id, None)
    # The store's own folder is left as it was.
    stored = mlflow.MlflowClient().get_logged_model(logged.model_id).artifact_location
    assert not Path(stored, "registered_model_meta").exists()

    for uri in ("models:/mine@best", "models:/mine/7", "models:/other@champion", "models:/m-1"):
        assert "mine (@champion; newest version 1)" in refusal(uri)
    assert "Only one of suffix or alias" in refusal("models:/")


def test_a_trials_model_is_found_by_its_run_and_carries_an_example_and_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_cifar10: DataSet
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrialConfig(validation_fraction=0.25)
    with tracking.tracked_run("trial", config.name) as run:
        tracking.log_dataset(small_cifar10, "training")
        tracking.log_model(network(), small_cifar10, {"test_accuracy": 0.1}, config.model_dump())
    trained = query.read(run.run_id)
    assert trained.model_uri
    loaded = load_model(trained.model_uri)
    for given in (trained.run_id, f"runs:/{trained.run_id}", f"runs:/{trained.run_id}/"):
        assert load_model(given).uri == trained.model_uri
    assert load_model(f"runs:/{trained.run_id}/model").model_id == loaded.model_id
    origin = Lineage(config.name, 0.25, small_cifar10.digest, small_cifar10.title, trained.run_id)
    assert lineage(loaded.model_id) == origin
    assert lineage("m-1") is lineage(None) is None
    with monkeypatch.context() as patch:
        patch.setattr(models, "find_run", lambda _: None)  # as after `mlflow gc`
        assert lineage(loaded.model_id) == Lineage(None, 0.25, None, None, None)

    model = mlflow.pyfunc.load_model(trained.model_uri)
    assert model.input_example.dtype == np.uint8
    np.testing.assert_array_equal(model.input_example, small_cifar10.examples("test").images[:1])
    assert loaded.model_id
    (metric,) = mlflow.MlflowClient().get_logged_model(loaded.model_id).metrics or []
    assert (metric.key, metric.dataset_digest) == ("test_accuracy", small_cifar10.digest[:36])

    with pytest.raises(UsageError, match="no such run"):
        load_model("0" * 32)
    with pytest.raises(UsageError, match="a web address is not a model; download the file"):
        load_model("https://example.com/model.onnx")
    with tracking.tracked_run("grid") as study:
        mlflow.set_tag("best_run_id", trained.run_id)
    with pytest.raises(UsageError, match="logged no model; the best trial of this study is run"):
        load_model(study.run_id)


def test_where_nothing_is_registered_it_is_said_how_to_make_a_model() -> None:
    assert "`mlflow run . -e grid` registers one" in refusal("models:/cifar10-cnn@champion")


@pytest.mark.parametrize("name", ["a#b", "a%20b", "a?b", "ä b", "~no-such-user", "caf\udce9"])
def test_a_folder_may_have_any_name(save: Save, tmp_path: Path, name: str) -> None:
    Path(save(network())).rename(tmp_path / name)
    for given in (name, str(tmp_path / name)):
        assert load_model(given).classes == CLASSES


def test_a_tilde_without_a_home_is_named() -> None:
    assert refusal("~no-such-user/a").endswith("no home folder is known for ~no-such-user")


def test_names_in_a_models_description_can_be_printed(save: Save) -> None:
    classes = ["\x1b[31mcat\n", *CLASSES[1:]]
    folder = Path(save(network(), {"classes": classes}))
    assert load_model(str(folder)).classes == ("\ufffd[31mcat\ufffd", *CLASSES[1:])
    described = folder / "MLmodel"
    described.write_text(described.read_text().replace("mlflow.keras", '"a\\x1b[31m"'))
    assert "loaded by a\ufffd[31m" in refusal(str(folder))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(str(tmp_path / "absent"))
    assert "it has no file MLmodel" in refusal(str(tmp_path))
    (tmp_path / "MLmodel").write_text("flavors: [")
    refusal(str(tmp_path))
    refusal("nowhere://models/1")


def test_a_model_of_another_flavor_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    folder = tmp_path / "pyfunc"
    mlflow.pyfunc.save_model(
        folder, loader_module="program", code_paths=[str(program)], pip_requirements=["mlflow"]
    )
    assert "a model of another flavor (loaded by program)" in refusal(str(folder))
    assert not (tmp_path / "it ran").exists()


def test_another_loader_beside_the_keras_flavor_is_refused(save: Save) -> None:
    described = Path(save(network()), "MLmodel")
    described.write_text(described.read_text().replace("mlflow.keras", "os.path"))
    assert "loaded by os.path" in refusal(str(described.parent))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_holds_python_code_is_refused(save: Save) -> None:
    folder = save(network(keras.layers.Lambda(lambda x: x)))
    assert "Lambda" in refusal(folder)


def test_a_format_that_keras_does_not_load_in_safe_mode_is_refused(save: Save) -> None:
    described = Path(save(network()), "MLmodel")
    text = described.read_text()
    for key, value, other in (("save_exported_model", "false", "true"), ("data", "data", "other")):
        changed = text.replace(f" {key}: {value}\n", f" {key}: {other}\n")
        assert changed != text
        described.write_text(changed)
        assert "not in the .keras format" in refusal(str(described.parent))


def test_a_model_whose_file_is_missing_or_damaged_is_refused(save: Save) -> None:
    folder = Path(save(network()))
    model = folder / "data" / "model.keras"
    zipped = model.read_bytes()
    for spoil, what in (
        (model.unlink, "missing"),
        (lambda: model.write_bytes(zipped[:1000]), "damaged"),
        (model.mkdir, "damaged"),
    ):
        spoil()
        assert f"its file data/model.keras is {what}" in refusal(str(folder))
        shutil.rmtree(model) if model.is_dir() else model.unlink(missing_ok=True)
    with zipfile.ZipFile(model, "w") as empty:
        empty.writestr("a", "b")
    refusal(str(folder))


def test_a_model_for_another_task_is_refused(save: Save) -> None:
    assert "no list of classes" in refusal(save(network(), {}))


def test_a_model_with_other_shapes_is_refused(save: Save) -> None:
    assert "gives (None, 10), not" in refusal(save(network(), {"classes": ["cat", "dog"]}))
    pool = keras.layers.GlobalAveragePooling2D()
    for shape in ((32, 24, 3), (32, 32, 1), (129, 129, 3)):
        other = keras.Sequential([keras.Input(shape, dtype="uint8"), pool, keras.layers.Dense(10)])
        assert f"takes (None, {str(shape)[1:]}, not images" in refusal(save(other))


def test_logits_are_no_probabilities(save: Save) -> None:
    logits = keras.Sequential([*network().layers[:-1], keras.layers.Dense(10)])
    logits.build((None, 32, 32, 3))
    assert "do not add up to 1" in refusal(save(logits))
