from cifar_mlflow.registry import CHALLENGER, CHAMPION, judge

TAGS = {"data_digest": "abc", "validation_fraction": "0.2", "val_accuracy": "0.7"}


def test_the_first_version_is_the_champion() -> None:
    assert judge(TAGS, None)[0] == CHAMPION


def test_a_better_version_becomes_the_champion() -> None:
    alias, reason = judge(TAGS | {"val_accuracy": "0.701"}, TAGS)
    assert alias == CHAMPION
    assert "0.7010 beats the champion's 0.7000" in reason


def test_an_equal_or_worse_version_is_a_challenger_and_told_why() -> None:
    assert judge(TAGS, TAGS)[0] == CHALLENGER
    alias, reason = judge(TAGS | {"val_accuracy": "0.6"}, TAGS)
    assert alias == CHALLENGER
    assert "0.6000 does not beat the champion's 0.7000" in reason


def test_a_version_from_other_data_or_another_split_is_a_challenger_however_good() -> None:
    better = {"val_accuracy": "0.99"}
    for change, said in (
        ({"data_digest": "xyz"}, "data"),
        ({"validation_fraction": "0.1"}, "images"),
    ):
        alias, reason = judge(TAGS | better | change, TAGS)
        assert alias == CHALLENGER
        assert said in reason


def test_a_champion_without_the_tags_is_not_beaten_blindly() -> None:
    assert judge(TAGS, {})[0] == CHALLENGER
