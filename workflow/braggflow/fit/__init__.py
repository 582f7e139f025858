"""Profile fits: every peak together with its neighbours, by maximum likelihood, compiled; several peaks told apart."""

from braggflow.fit.deblending import Deblended, deblend
from braggflow.fit.patch_fits import fit_patches, profile_counts

__all__ = ["Deblended", "deblend", "fit_patches", "profile_counts"]
