"""A trained model in other people's formats, each with the proof that it is the same model."""
