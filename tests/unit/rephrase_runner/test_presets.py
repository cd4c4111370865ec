import re

import pytest

from rephrase_api.presets import Preset, presets

each_preset = pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)


def test_the_four_formats_of_finephrase_are_there() -> None:
    assert {"faq", "math", "table", "tutorial"} <= presets().keys()


@each_preset
def test_a_preset_says_what_it_is_and_where_it_comes_from(preset: Preset) -> None:
    assert preset.description
    assert "\n" not in preset.description
    assert preset.source


@each_preset
def test_an_instruction_reads_well_before_and_after_the_document(preset: Preset) -> None:
    assert "the document" in preset.instruction
    assert not re.search(r"\b(below|above|following|preceding)\b", preset.instruction)


@each_preset
def test_an_instruction_is_one_paragraph_that_forbids_anything_else(preset: Preset) -> None:
    assert "\n" not in preset.instruction
    assert re.search(r"\. Write nothing but the [^.]+\.$", preset.instruction)


@each_preset
def test_an_instruction_is_short_enough_for_a_small_model(preset: Preset) -> None:
    assert len(preset.instruction.split()) <= 100
