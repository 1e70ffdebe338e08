"""What a user asks of a model's features."""

import pytest

from model import ModelError
from model.card import FeatureSpec
from model.feature_choice import FeatureChoice, numbers

OF_THE_MODEL = FeatureSpec(timesteps=(50,), up_blocks=(1, 2), stem={"shrink": 4, "taps": [3]})


def test_nothing_asked_for_changes_nothing():
    asked = FeatureChoice.parsed(None, None, joined=None, conditioning=None, stem=None)
    assert asked.applied(OF_THE_MODEL) == OF_THE_MODEL


def test_each_wish_is_granted_and_the_rest_stays():
    asked = FeatureChoice.parsed("50,150", "2", joined=True, conditioning=False, stem=False)
    assert asked.applied(OF_THE_MODEL) == FeatureSpec((50, 150), (2,), True, False, None)


def test_a_stem_that_is_there_stays_as_it_is_and_one_that_is_not_is_the_usual_one():
    assert FeatureChoice(stem=True).applied(OF_THE_MODEL).stem == OF_THE_MODEL.stem
    made = FeatureChoice(stem=True).applied(FeatureSpec()).stem
    assert made is not None and made["taps"]


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5", "1,1", "-1"])
def test_lists_that_are_none_are_refused(text):
    with pytest.raises(ModelError, match=r"whole numbers|twice or below 0"):
        numbers(text)
