import pytest

from rigl_lightning.sparsity.names import matching_names, module_of

NAMES = ["stem.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer10.conv1.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("fc.weight", ["fc.weight"]),
        ("fc", ["fc.weight"]),
        ("layer1.*", ["layer1.0.conv1.weight", "layer1.1.conv1.weight"]),
        ("layer1.0.conv1", ["layer1.0.conv1.weight"]),
        ("*conv1", ["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer10.conv1.weight"]),
        ("layer1.[01].conv1", ["layer1.0.conv1.weight", "layer1.1.conv1.weight"]),
        ("*", NAMES),
    ],
)
def test_a_pattern_names_parameters_or_the_modules_that_own_them(pattern, expected):
    assert matching_names(pattern, NAMES, "exclude") == expected


def test_a_pattern_is_case_sensitive():
    with pytest.raises(ValueError, match="exclude"):
        matching_names("FC", NAMES, "exclude")


def test_a_part_of_a_module_name_is_no_match():
    with pytest.raises(ValueError, match=r"Did you mean 'layer1'"):
        matching_names("layer", NAMES, "exclude")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer1", ["layer1.0.conv1.weight", "layer1.1.conv1.weight"]),
        ("layer1.0", ["layer1.0.conv1.weight"]),
        ("layer*", ["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer10.conv1.weight"]),
    ],
)
def test_a_module_that_contains_others_means_all_that_is_in_it(pattern, expected):
    assert matching_names(pattern, NAMES, "exclude") == expected


def test_a_module_of_the_same_name_as_one_that_owns_weights_is_not_meant():
    names = ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert matching_names("attention", names, "exclude") == names[:1]


@pytest.mark.parametrize(
    ("typo", "suggestion"),
    [("fc.wieght", "'fc.weight'"), ("stme", "'stem'"), ("layer1.0.con1.weight", "'layer1.0.conv1.weight'")],
)
def test_a_misspelt_name_gets_the_closest_ones_and_the_setting(typo, suggestion):
    with pytest.raises(ValueError, match=r"distribution\.custom") as error:
        matching_names(typo, NAMES, "distribution.custom")
    assert suggestion in str(error.value)
    assert repr(typo) in str(error.value)


def test_a_name_like_no_other_gets_examples():
    with pytest.raises(ValueError, match=r"stem\.weight, layer1\.0\.conv1\.weight"):
        matching_names("zzzzzzzz", NAMES, "include")


def test_without_any_name_the_error_says_none():
    with pytest.raises(ValueError, match="none"):
        matching_names("fc", [], "include")


def test_names_may_come_from_an_iterator():
    assert matching_names("fc", iter(NAMES), "include") == ["fc.weight"]


def test_the_module_of_a_root_parameter_is_the_root():
    assert module_of("weight") == ""
    assert module_of("gru.weight_ih_l0") == "gru"
