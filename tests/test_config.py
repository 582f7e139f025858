from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from braggflow.config import (
    NoiseMultiple,
    RunConfig,
    config_schema,
    digest,
    load_config,
    resolve_config,
    starter_config,
)
from braggflow.errors import InputError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_there_are_example_configurations():
    assert {path.stem for path in CONFIGS} >= {"demo", "operando", "rotation", "laue"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_example_configuration_loads(path):
    assert isinstance(load_config(path), RunConfig)


def test_starter_holds_every_key_at_its_default():
    text = starter_config()
    assert resolve_config(yaml.safe_load(text)) == RunConfig()
    assert all(f"  {key}:" in text for key in type(RunConfig().detect).model_fields)


def test_yaml_round_trip_keeps_everything():
    settings = resolve_config({"detect": {"minval": {"sigma": 4}, "minscore": 3}, "data": ["a.zarr"]})
    assert resolve_config(yaml.safe_load(settings.to_yaml())) == settings


def test_empty_file_is_all_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(path) == RunConfig()


def test_overrides_stand_above_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("detect: {minval: 10, minscore: 4}\n")
    settings = load_config(path, ["detect.minval=20", "fit.model=pseudo_voigt", "frames.stop=null"])
    assert (settings.detect.minval, settings.detect.minscore) == (20, 4)
    assert settings.fit.model == "pseudo_voigt"
    sigma = load_config(path, ["detect.minval={sigma: 5}"])
    assert sigma.detect.minval == NoiseMultiple(sigma=5)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"detect": {"minvall": 3}}, ["detect.minvall", "3", "minscore", "Did you mean minval?"]),
        ({"detekt": {}}, ["detekt", "accepted: data, frames, detect"]),
        ({"detect": {"minval": "high"}}, ["detect.minval", "'high'", "number", "sigma"]),
        ({"detect": {"minval": -3}}, ["detect.minval", "-3"]),
        ({"detect": {"minval": 0}}, ["detect.minval", "0", "above 0"]),
        ({"detect": {"minval": {"sigma": 0}}}, ["detect.minval", "0", "sigma"]),
        ({"patches": {"size": 10}}, ["patches.size", "10", "9, 11, 13 or 15"]),
        ({"fit": {"fraction": 1.5}}, ["fit.fraction", "1.5", "less than or equal to 1"]),
        ({"fit": {"model": "lorentz"}}, ["fit.model", "lorentz", "gaussian", "pseudo_voigt"]),
        ({"localise": {"device": "gpu"}}, ["localise.device", "gpu", "cuda"]),
        ({"frames": {"start": 5, "stop": 2}}, ["frames.stop", "2", "above start: 5"]),
        ({"frames": {"bin": 0}}, ["frames.bin", "0"]),
        ({"frames": {"gain": 0}}, ["frames.gain", "0", "greater than 0"]),
        ({"frames": {"read_noise": -1}}, ["frames.read_noise", "-1", "greater than or equal to 0"]),
        ({"patches": {"neighbours": "drop"}}, ["patches.neighbours", "drop", "joint", "exclude", "keep"]),
        ({"fit": {"likelihood": "normal"}}, ["fit.likelihood", "normal", "poisson", "least_squares"]),
        ({"localise": {"max_std": 0}}, ["localise.max_std", "0", "greater than 0"]),
        ({"localise": {"max_disagreement": float("inf")}}, ["localise.max_disagreement", "inf", "finite"]),
        ({"compute": {"workers": 0}}, ["compute.workers", "0"]),
        ({"detect": {"engine": "findpeaks", "min_area": 2}}, ["detect.engine", "findpeaks", "min_area", "native"]),
        ({"detect": 3}, ["detect", "3"]),
        ([1, 2], ["list", "mapping of sections"]),
    ],
)
def test_bad_values_are_named_with_what_is_accepted(data, parts):
    with pytest.raises(InputError) as error:
        resolve_config(data)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("override", "part"), [("detect.minval", "section.key=value"), ("=3", "section.key=value"), ("data.x=1", "data")]
)
def test_bad_overrides_are_refused(override, part):
    with pytest.raises(InputError, match=part):
        resolve_config({"data": ["a"]}, [override])


def test_missing_file_names_it(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml.*No such file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(("content", "part"), [(b"detect: {minval: [", "not valid YAML"), (b"\xff\xfe\x00", "UTF-8")])
def test_unreadable_file_is_one_message(tmp_path, content, part):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=part) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_compute_and_output_do_not_change_the_result_settings():
    plain, other = RunConfig(), resolve_config({"compute": {"workers": 7}, "output": {"folder": "x"}})
    assert digest(plain.result_settings()) == digest(other.result_settings())
    for section, change in (("detect", {"minscore": 9}), ("frames", {"gain": 2}), ("localise", {"max_std": 1})):
        changed = resolve_config({section: change})
        assert digest(plain.result_settings()) != digest(changed.result_settings())


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(), max_size=4))
def test_digest_does_not_depend_on_key_order(data):
    assert digest(data) == digest(dict(reversed(list(data.items()))))


def test_json_schema_describes_every_section():
    assert set(config_schema()["properties"]) == set(RunConfig.model_fields)
