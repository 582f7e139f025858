"""What a run leaves on disk: run folder, parts, peak table and its export, and how data sets stand."""

from braggflow.results.export import export_peaks
from braggflow.results.folder import (
    FILES,
    RunFolder,
    begin_run,
    file_digests,
    read_run_config,
    read_run_info,
    remove_unfinished,
    resume_run,
    run_lock,
    write_run_info,
)
from braggflow.results.frames_of_run import SearchedFrame, open_run_frames, read_run_frame
from braggflow.results.identity import frames_identity, identity_changes, run_digest, run_identity
from braggflow.results.made_from import Input, Provenance, provenance, provenance_attribute, recorded_inputs
from braggflow.results.opened_run import Run, damage_of_run, open_run
from braggflow.results.parts import Part, PartSummary, look_at_part, part_files, read_parts, write_part
from braggflow.results.peaks import consolidate, damage_of_table, open_peaks
from braggflow.results.status import OUTCOMES, DataSetStatus, append_outcome, data_set_statuses, write_end_in_place
from braggflow.results.watch import FRAME_STATE, Alarm, find_alarms, frame_states

__all__ = [
    "FILES",
    "FRAME_STATE",
    "OUTCOMES",
    "Alarm",
    "DataSetStatus",
    "Input",
    "Part",
    "PartSummary",
    "Provenance",
    "Run",
    "RunFolder",
    "SearchedFrame",
    "append_outcome",
    "begin_run",
    "consolidate",
    "damage_of_run",
    "damage_of_table",
    "data_set_statuses",
    "export_peaks",
    "file_digests",
    "find_alarms",
    "frame_states",
    "frames_identity",
    "identity_changes",
    "look_at_part",
    "open_peaks",
    "open_run",
    "open_run_frames",
    "part_files",
    "provenance",
    "provenance_attribute",
    "read_parts",
    "read_run_config",
    "read_run_frame",
    "read_run_info",
    "recorded_inputs",
    "remove_unfinished",
    "resume_run",
    "run_digest",
    "run_identity",
    "run_lock",
    "write_end_in_place",
    "write_part",
    "write_run_info",
]
