"""What a run leaves on disk: run folder, parts, peak table and its export, and how data sets stand."""

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
from braggflow.results.followed import (
    TRACKS_VERSION,
    damage_of_tracks,
    open_tracks,
    write_tracks,
)
from braggflow.results.frames_of_run import SearchedFrame, open_run_frames, read_run_frame
from braggflow.results.identity import (
    described_alike,
    frames_identity,
    growing_identity,
    identity_changes,
    run_digest,
    run_identity,
)
from braggflow.results.made_from import Input, Provenance, provenance, provenance_attribute, recorded_inputs
from braggflow.results.opened_run import Run, damage_of_run, open_run
from braggflow.results.parts import (
    Part,
    PartSummary,
    look_at_part,
    part_files,
    read_part_table,
    read_parts,
    relabel_part,
    write_part,
)
from braggflow.results.peaks import consolidate, damage_of_table, open_peaks, open_stored_peaks, stored_columns
from braggflow.results.series_log import join_log
from braggflow.results.status import OUTCOMES, DataSetStatus, append_outcome, data_set_statuses, write_end_in_place
from braggflow.results.watch import FRAME_STATE, Alarm, find_alarms, frame_states

__all__ = [
    "FILES",
    "FRAME_STATE",
    "OUTCOMES",
    "TRACKS_VERSION",
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
    "damage_of_tracks",
    "data_set_statuses",
    "described_alike",
    "file_digests",
    "find_alarms",
    "frame_states",
    "frames_identity",
    "growing_identity",
    "identity_changes",
    "join_log",
    "look_at_part",
    "open_peaks",
    "open_run",
    "open_run_frames",
    "open_stored_peaks",
    "open_tracks",
    "part_files",
    "provenance",
    "provenance_attribute",
    "read_part_table",
    "read_parts",
    "read_run_config",
    "read_run_frame",
    "read_run_info",
    "recorded_inputs",
    "relabel_part",
    "remove_unfinished",
    "resume_run",
    "run_digest",
    "run_identity",
    "run_lock",
    "stored_columns",
    "write_end_in_place",
    "write_part",
    "write_run_info",
    "write_tracks",
]
