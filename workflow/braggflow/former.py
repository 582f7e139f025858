"""Names of earlier versions: what a key is called now, and settings of old runs under today's names."""

from collections.abc import Mapping
from typing import Any

#: Keys of version 0.1.0 that have another name now, and what to write.
_FORMER_KEYS = {
    "localise.method": "locate.network (compact, braggnn, none, or a weights file) and locate.position (auto, network, "
    "fit)",
    "localise.checkpoint": "locate.network, which takes a weights file too",
    "localise.device": "locate.device",
    "localise.batch_size": "locate.batch_size",
    "localise.max_disagreement": "locate.max_disagreement",
    "frames.gain": "frames.counts_per_photon (of a CCD, that is mostly the inverse of its gain)",
    "patches.low_snr": "patches.flag_snr_below",
}
_NO_LONGER = (
    "is no longer a key: position: auto uses the fit wherever it converged, unless the network is clearly surer"
)
#: Keys that went, and why.
_FORMER_KEYS_GONE = {"localise.max_std": _NO_LONGER, "locate.prefer_fit_above_std": _NO_LONGER}
_FORMER_NEIGHBOURS = {"joint": "fit_together", "exclude": "mask", "keep": "ignore"}


def former_names(data: Mapping[str, Any]) -> list[str]:
    """A line for each key, or value, of earlier versions in plain data: what it is called now, or why it went."""
    given = {
        f"{section}.{key}": value
        for section, keys in data.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }
    lines = [f"{key}: {value!r} is now {_FORMER_KEYS[key]}" for key, value in given.items() if key in _FORMER_KEYS]
    lines += [
        f"{key} (value {value!r}) {_FORMER_KEYS_GONE[key]}" for key, value in given.items() if key in _FORMER_KEYS_GONE
    ]
    neighbours = given.get("patches.neighbours")
    if isinstance(neighbours, str) and neighbours in _FORMER_NEIGHBOURS:
        lines.append(f"patches.neighbours: {neighbours!r} is now {_FORMER_NEIGHBOURS[neighbours]}")
    if "localise" in data and not any(key.startswith("localise.") for key in given):
        lines.append("localise: the section is now called locate")
    return lines


def from_former(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run of version 0.1.0 (or of this one) under the names of this version."""
    new = {section: dict(keys) if isinstance(keys, dict) else keys for section, keys in data.items()}
    frames, patches = new.get("frames", {}), new.get("patches", {})
    for keys, old, name in ((frames, "gain", "counts_per_photon"), (patches, "low_snr", "flag_snr_below")):
        if old in keys:
            keys[name] = keys.pop(old)
    if patches.get("neighbours") in _FORMER_NEIGHBOURS:
        patches["neighbours"] = _FORMER_NEIGHBOURS[patches["neighbours"]]
    if (former := new.pop("localise", None)) is not None:
        method, weights = former.pop("method", "auto"), former.pop("checkpoint", None)
        former.pop("max_std", None)
        former["network"] = "none" if method == "none" else weights or ("compact" if method == "auto" else method)
        former["position"] = {"auto": "auto", "none": "fit"}.get(method, "network")
        new["locate"] = former
    new.get("locate", {}).pop("prefer_fit_above_std", None)
    return new
