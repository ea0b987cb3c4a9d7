"""Errors that models raise on purpose; each message says place, expected, got and remedy."""


class ModelError(Exception):
    """Base of the errors of this package."""


class ArtifactError(ModelError):
    """An artifact is missing, damaged or of another kind or version."""


class FeatureMismatch(ModelError):
    """Columns differ from those the artifact was trained on."""


class TrainingDataError(ModelError):
    """Training data cannot be used: columns, types, order or classes."""


class EvaluationError(ModelError):
    """Data, an artifact or scores cannot be judged: wrong content, a wrong span of time, or test data seen in training."""


class StateError(ModelError):
    """A saved row of feature state cannot be read by this version."""
