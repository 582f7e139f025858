from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from braggflow.cli.config_commands import config_schema, starter_config
from braggflow.config import (
    NoiseMultiple,
    RunConfig,
    as_config,
    digest,
    load_config,
    resolve_config,
)
from braggflow.errors import InputError
from braggflow.former import from_former

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


def test_a_configuration_is_given_as_one_as_plain_data_or_as_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("detect: {minval: 10}\n")
    settings = load_config(path)
    assert settings.detect.minval == 10
    assert as_config(settings) is settings
    for stated in (path, str(path), {"detect": {"minval": 10}}):
        assert as_config(stated) == settings


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
        ({"locate": {"device": "gpu"}}, ["locate.device", "gpu", "cuda"]),
        ({"fit": {"device": "gpu"}}, ["fit.device", "gpu", "cuda"]),
        ({"frames": {"start": 5, "stop": 2}}, ["frames.stop", "2", "above start: 5"]),
        ({"frames": {"bin": 0}}, ["frames.bin", "0"]),
        ({"frames": {"counts_per_photon": 0}}, ["frames.counts_per_photon", "0", "greater than 0"]),
        ({"frames": {"read_noise": -1}}, ["frames.read_noise", "-1", "greater than or equal to 0"]),
        ({"patches": {"neighbours": "drop"}}, ["patches.neighbours", "drop", "fit_together", "mask", "ignore"]),
        ({"fit": {"likelihood": "normal"}}, ["fit.likelihood", "normal", "poisson", "least_squares"]),
        ({"locate": {"max_disagreement": 0}}, ["locate.max_disagreement", "0", "greater than 0"]),
        ({"locate": {"max_disagreement": float("inf")}}, ["locate.max_disagreement", "inf", "finite"]),
        ({"compute": {"workers": 0}}, ["compute.workers", "0"]),
        ({"detect": {"engine": "findpeaks", "min_area": 2}}, ["detect.engine", "findpeaks", "min_area", "native"]),
        ({"detect": 3}, ["detect", "3"]),
        ({"detect": 3}, ["detect: 3", "must be a section with keys (engine, false_peaks"]),
        ({"minval": 3}, ["minval: unknown key (value 3)", "Did you mean detect.minval?"]),
        ({"minvall": 3}, ["Did you mean detect.minval?"]),
        ({"fit": {"minval": 3}}, ["fit.minval", "Did you mean detect.minval?"]),
        ({"detect": {"minval:20": None}}, ["YAML needs a blank after the colon: minval: 20"]),
        ({"detect": "minval:20"}, ["detect: 'minval:20'", "YAML needs a blank after the colon: minval: 20"]),
        ({"detect": {"max_peaks_per_frame": None}}, ["detect.max_peaks_per_frame: None", "integer"]),
        ({"detect": {"max_peaks_per_frame": 0}}, ["detect.max_peaks_per_frame: 0", "greater than or equal to 1"]),
        ({"compute": {"memory_limit": "lots"}}, ["compute.memory_limit: 'lots' is no size of memory", "auto", "4GiB"]),
        ({"compute": {"memory_limit": "0GB"}}, ["compute.memory_limit: '0GB' is no size of memory"]),
        ({"compute": {"memory_limit": True}}, ["compute.memory_limit: True is no size of memory"]),
        ([1, 2], ["list", "mapping of sections"]),
    ],
)
def test_bad_values_are_named_with_what_is_accepted(data, parts):
    with pytest.raises(InputError) as error:
        resolve_config(data)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "now"),
    [
        (
            "localise.method",
            "braggnn",
            "locate.network (compact, braggnn, none, or a weights file) and locate.position",
        ),
        ("localise.checkpoint", "a.pth", "locate.network"),
        ("localise.device", "cpu", "locate.device"),
        ("localise.batch_size", 7, "locate.batch_size"),
        ("localise.max_disagreement", 3, "locate.max_disagreement"),
        ("frames.gain", 2, "frames.counts_per_photon"),
        ("patches.low_snr", 4, "patches.flag_snr_below"),
        ("patches.neighbours", "joint", "fit_together"),
        ("patches.neighbours", "exclude", "mask"),
        ("patches.neighbours", "keep", "ignore"),
    ],
)
def test_a_key_of_version_0_1_0_is_refused_with_its_new_name(key, value, now):
    section, name = key.split(".")
    for data, overrides in (({section: {name: value}}, []), ({}, [f"{key}={value}"])):
        with pytest.raises(InputError) as error:
            resolve_config(data, overrides)
        assert f"{key}: {value!r} is now {now}" in str(error.value)


@pytest.mark.parametrize("key", ["localise.max_std", "locate.prefer_fit_above_std"])
def test_a_key_that_went_is_refused_with_the_reason(key):
    with pytest.raises(InputError, match=rf"{key} \(value 0.3\) is no longer a key: position: auto uses the fit"):
        resolve_config({}, [f"{key}=0.3"])


def test_an_old_section_without_keys_is_refused_too():
    with pytest.raises(InputError, match="localise: the section is now called locate"):
        resolve_config({"localise": {}})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"method": "auto", "checkpoint": None}, {"network": "compact", "position": "auto"}),
        ({"method": "auto", "checkpoint": "a.pth"}, {"network": "a.pth", "position": "auto"}),
        ({"method": "braggnn"}, {"network": "braggnn", "position": "network"}),
        ({"method": "braggnn", "checkpoint": "a.pth"}, {"network": "a.pth", "position": "network"}),
        ({"method": "none", "checkpoint": None}, {"network": "none", "position": "fit"}),
    ],
)
def test_the_settings_of_an_old_run_are_read_under_their_new_names(old, new):
    former = {
        "frames": {"gain": 2.0, "bin": 2},
        "patches": {"neighbours": "exclude", "low_snr": 3.0},
        "localise": {**old, "max_std": 0.5},
    }
    config = resolve_config(from_former(former))
    assert config.locate.model_dump(include=set(new)) == new
    assert (config.frames.counts_per_photon, config.frames.bin) == (2, 2)
    assert (config.patches.neighbours, config.patches.flag_snr_below) == ("mask", 3)
    earlier = config.model_dump(mode="json")
    earlier["locate"]["prefer_fit_above_std"] = 0.5
    assert resolve_config(from_former(earlier)) == config
    assert resolve_config(from_former(config.model_dump(mode="json"))) == config


@pytest.mark.parametrize("text", ["6 sigma", "6sigma", " 6.0 σ ", "6e0 sigma"])
def test_a_level_may_be_written_as_so_many_sigma(text):
    assert resolve_config({"detect": {"minval": text}}).detect.minval == NoiseMultiple(sigma=6)
    assert resolve_config({}, [f"detect.minval={text}"]).detect.minval == NoiseMultiple(sigma=6)


@pytest.mark.parametrize("text", ["detect: {minval: {sigma:6}}", "detect:\n  minval: {sigma: 6}\nfit:\n"])
def test_a_blank_that_is_missing_and_a_section_of_comments_are_understood(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert load_config(tmp_path / "c.yaml") == resolve_config({"detect": {"minval": {"sigma": 6}}})
    assert load_config(tmp_path / "c.yaml", ["detect.minscore={sigma:2.5}"]).detect.minscore == NoiseMultiple(sigma=2.5)


@pytest.mark.parametrize("size", ["auto", "4GiB", "4 GB", "500MB", "1.5gib", 4_000_000_000, "4000000000"])
def test_sizes_of_memory_are_taken_as_dask_takes_them(size):
    from dask.utils import parse_bytes

    taken = resolve_config({"compute": {"memory_limit": size}}).compute.memory_limit
    assert taken == str(size)
    assert taken == "auto" or parse_bytes(taken) > 100e6


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)
#: YAML at which PyYAML takes one of two values, raises something else than its own error, or never ends.
YAML_TRAPS = {
    "detect:\n  minval: 3\n  min_area: 2\n  minval: 4\n": r"the key minval is given twice, in lines 2 and 4",
    "detect: {minval: 3}\ndetect: {minscore: 4}\n": r"the key detect is given twice, in lines 1 and 2",
    "fit: {model: gaussian, model: disk}": r"the key model is given twice, in line 1",
    "frames:\n  start: 2023-13-45\n": r"2023-13-45 is no date \(month must be .*\); in quotes it is a text.*line 2",
    "frames: {start: !!int foo}": r"foo is no int",
    "frames: {start: !!bool foo}": r"foo is no bool",
    "frames: {start: !!timestamp foo}": r"foo is no date",
    f"frames: {{start: {'9' * 5000}}}": r"the value is no int",
    "[" * 5000: r"is nested too deeply",
    "frames: &a\n  start: *a\n": r"more than 100,000 values once its aliases are resolved",
    BOMB: r"more than 100,000 values once its aliases are resolved",
    "frames: !!python/object:os.system {}": r"could not determine a constructor",
    "a: 1\n---\nb: 2\n": r"expected a single document",
    "x" * 1_100_000: r"has 1\.1 MB; no file of settings has more than 1",
}


@pytest.mark.parametrize("text", YAML_TRAPS, ids=range(len(YAML_TRAPS)))
def test_yaml_that_cannot_be_meant_is_one_message(tmp_path, text):
    path = tmp_path / "trap.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^configuration .*trap\.yaml: .*{YAML_TRAPS[text]}") as error:
        load_config(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


def test_the_value_of_an_override_is_read_with_the_same_care():
    with pytest.raises(InputError, match=r"^--set frames\.start=2023-13-45: is not valid YAML: 2023-13-45 is no date"):
        resolve_config({}, ["frames.start=2023-13-45"])
    with pytest.raises(InputError, match=r"minval: unknown key \(value 3\).* Did you mean detect\.minval\?"):
        resolve_config({}, ["minval=3"])


@pytest.mark.parametrize("name", ["scan.zarr", "scan.h5", "frames", "peaks.csv"])
def test_data_named_before_the_configuration_are_recognised(tmp_path, name):
    (tmp_path / "frames").mkdir()
    with pytest.raises(
        InputError, match=rf"{name}: is .*the configuration comes first.*braggflow run CONFIG\.yaml .*{name}"
    ):
        load_config(tmp_path / name)


def test_without_a_network_there_is_no_position_of_one():
    with pytest.raises(InputError, match=r"locate\.position: network is not accepted with network: none"):
        resolve_config({"locate": {"network": "none", "position": "network"}})


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


def test_compute_output_follow_and_check_do_not_change_the_result_settings():
    changes = {"compute": {"workers": 7}, "output": {"folder": "x"}, "check": {"fraction": 0}, "follow": {"frames": 9}}
    plain, other = RunConfig(), resolve_config(changes)
    assert digest(plain.result_settings()) == digest(other.result_settings())
    for section, change in (
        ("detect", {"minscore": 9}),
        ("frames", {"counts_per_photon": 2}),
        ("locate", {"max_disagreement": 1}),
    ):
        changed = resolve_config({section: change})
        assert digest(plain.result_settings()) != digest(changed.result_settings())


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(), max_size=4))
def test_digest_does_not_depend_on_key_order(data):
    assert digest(data) == digest(dict(reversed(list(data.items()))))


def test_json_schema_describes_every_section():
    assert set(config_schema()["properties"]) == set(RunConfig.model_fields)
