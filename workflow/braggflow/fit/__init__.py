"""Profile fits: every peak together with its neighbours, by maximum likelihood, compiled."""

from braggflow.fit.patch_fits import fit_patches

__all__ = ["fit_patches"]
