"""Every method, and what some of them promise."""

import pytest

from ctwa.aggregators import AGGREGATORS

METHODS = sorted(AGGREGATORS)
# Weights that do not depend on the scale of the gradients. What the others promise is in their own tests.
SCALE_FREE = sorted(set(METHODS) - {"dynamic", "clamp", "torchjd"})
# Weights that are the preference where nothing conflicts.
FROM_THE_PREFERENCE = ["cagrad", "cagrad_clip", "common_descent", "linear", "pcgrad", "upgrad"]
# No objective's loss rises along the step, to first order.
NON_CONFLICTING = ["common_descent", "mgda", "upgrad"]
# Also where their norms are eight decades apart, or two are all but opposite.
NON_CONFLICTING_IN_TROUBLE = ["mgda", "upgrad"]
TO_THE_SUM_OF_1 = ["common_descent", "dynamic", "gradnorm", "linear", "mgda", "nash_mtl", "torchjd"]
NON_CONFLICTING_IN_PAIRS = [*NON_CONFLICTING, "pcgrad"]

every_method = pytest.mark.parametrize("method", METHODS)


def gram(gradients_MD):
    return gradients_MD @ gradients_MD.T
