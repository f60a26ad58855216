"""What a run of images predicted, beside float inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from bfpsim.search.experiments.inference import ImageRun


def prediction_notes(
    images: ImageRun | None, frames: dict[str, Callable[[], pd.DataFrame]]
) -> dict[str, int]:
    """How many predictions equal float inference's, and are right; adds the frame of them."""
    if images is None:
        return {}
    classes = images.predictions
    frames["predictions"] = lambda: classes
    notes = {
        "images": len(classes),
        "equal_to_float": int((classes["simulated"] == classes["float"]).sum()),
    }
    if "label" in classes:
        notes["right"] = int((classes["simulated"] == classes["label"]).sum())
        notes["right_in_float"] = int((classes["float"] == classes["label"]).sum())
    return notes
