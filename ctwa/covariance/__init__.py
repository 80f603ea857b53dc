from ctwa.covariance.weights import ClipRange

__all__ = ["ClipRange"]
