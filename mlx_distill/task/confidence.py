"""How sure an answer really is: what was found out on rows that were not learned, applied to new answers. `calibration.json` holds it.

    Confidence.read(adapter folder)          None where nothing was found out
    confidence.apply(task, prediction)       confidences set right, the row's own, whether it is deferred, conformal sets

It is fitted by `evaluation`; inference applies it. It knows fields and probabilities, nothing of models or files but its own.
"""
