"""Why a trained model answers as it does, in images, and how far each image can be trusted."""
