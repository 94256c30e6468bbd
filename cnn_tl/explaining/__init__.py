"""Why a trained model answers as it does, in pictures, and how far each picture can be trusted."""
