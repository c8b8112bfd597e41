"""The training objectives as pure functions from tensors to (sum, weight); no model lives here."""
