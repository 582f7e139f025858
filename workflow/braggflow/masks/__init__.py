"""Masks drawn by hand: shapes that can be undone, saved with who and when, edited again; and what frames propose."""

from braggflow.masks.drawn import DrawnMask
from braggflow.masks.proposals import Proposal, propose
from braggflow.masks.saving import load_mask, save_mask
from braggflow.masks.shapes import Shape

__all__ = ["DrawnMask", "Proposal", "Shape", "load_mask", "propose", "save_mask"]
